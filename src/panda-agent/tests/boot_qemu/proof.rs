//! A boot that goes well, and what a build then finds on the board.

use panda_protocol::digest::Sha256;
use panda_protocol::launchpad::{BuildStatus, Status};
use panda_protocol::link::Report;

use super::machine::{Disk, Image, Machine};
use super::marks::{agent, run_build};
use super::master::{BOOT_ID, Master, Quirks, now_ms};

/// What a build looks at. It ends badly on purpose: nothing is to be gathered.
const LOOKING: &str = r#"
    echo "name=$(hostname)"
    echo "root=$(findmnt -n -o FSTYPE /)"
    echo "scratch=$(findmnt -n -o FSTYPE,SOURCE /var/lib/panda | tr -s ' ')"
    echo "swap=$(tail -n +2 /proc/swaps | wc -l)"
    echo "servers=$(cat /etc/resolv.conf)"
    echo "build=$(cat /proc/self/oom_score_adj)"
    mkdir p && mount -t proc proc p
    umount -l /proc && echo "agent=$(cat /proc/1/oom_score_adj)"
    echo "input=$(timeout 1 cat /proc/1/fd/0 | wc -c)"
    echo "keys=$(dmsetup table | grep -c ' 0000000000000000')"
    echo "brd=$(grep -c ^brd /proc/modules)"
    echo "tmp=$(ls -d /boot.toml /modules /init 2>/dev/null | wc -l)"
    ls / >&2
    exit 1"#;

#[tokio::test]
#[ignore = "boots a kernel under QEMU; run by `scripts/test qemu`"]
async fn a_kernel_boots_to_its_proof_and_a_build_finds_neither_key_nor_ramdisk() {
    let (image, directory) = (Image::get(), tempfile::tempdir_in("/var/tmp").unwrap());
    let quirks = Quirks {
        breaks_off: true,
        ..Quirks::default()
    };
    let master = Master::new(&image.rootfs(), directory.path(), quirks).await;
    let appendix = master.appendix(&agent(LOOKING, false));
    let machine = Machine::start(
        &image,
        &master,
        Disk::Erasing(3072),
        directory.path(),
        &appendix,
    );
    let report = master.proven().await;
    assert_eq!(
        (report.boot.as_str(), report.image),
        (BOOT_ID, Sha256::of(b"image"))
    );
    assert_eq!(report.rootfs, Some(master.rootfs()));
    assert_eq!(report.insecure, [""; 0]);
    let skew = (report.clock_unix_ms - now_ms()).abs();
    assert!(skew < 60_000, "the master's time was taken: {skew} ms off");
    let steps: Vec<_> = report.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        steps,
        [
            "kernel", "mounts", "files", "modules", "random", "clock", "network", "master", "disk",
            "rootfs", "scratch", "root", "switch", "agent", "link", "worker"
        ]
    );
    let told: u64 = report.steps.iter().map(|step| step.elapsed_ms).sum();
    assert!(told <= report.uptime_ms, "{told} of {}", report.uptime_ms);
    print_steps(&report);
    assert!(master.pieces() > 3, "it went on after it broke off");
    let status = master.client().status().await.unwrap().status;
    assert_eq!(status, Status::Idle);

    let (outcome, log) = run_build(&master, directory.path(), b"no chroot").await;
    assert_eq!(outcome.build_status, BuildStatus::PackageFail, "{log}");
    for line in [
        "name=panda01",
        "root=overlay",
        "scratch=ext4 /dev/mapper/panda-scratch",
        "swap=1",
        "servers=nameserver 10.0.2.3",
        "build=500",
        "agent=-1000",
        "input=0",
        "keys=3",
        "brd=0",
        "tmp=0",
    ] {
        assert!(log.lines().any(|found| found == line), "{line}:\n{log}");
    }
    let console = machine.console();
    assert!(console.contains("boot: network"), "{console}");
    assert!(
        !console.contains(master.secret()),
        "the console shows the key"
    );
    assert!(!console.contains("INSECURE"), "{console}");
}

fn print_steps(report: &Report) {
    for step in &report.steps {
        println!("{:10} {:6} ms  {}", step.name, step.elapsed_ms, step.detail);
    }
    println!("{:10} {:6} ms", "report", report.uptime_ms);
}
