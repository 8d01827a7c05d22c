//! Removing what a build can leave behind. Some of it needs root, and says "skipped:" without it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, mkdirat, openat};

/// `depth` directories, each in the one before, with a file in each hundredth; far more than a path can name.
fn nest(top: &Path, depth: usize) {
    fs::create_dir_all(top).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = rustix::fs::open(top, flags, Mode::empty()).unwrap();
    for level in 0..depth {
        if level % 100 == 0 {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            openat(&directory, c"file", flags, Mode::RUSR).unwrap();
            mkdirat(&directory, c"beside", Mode::RWXU).unwrap();
        }
        mkdirat(&directory, c"d", Mode::RWXU).unwrap();
        directory = openat(&directory, c"d", flags, Mode::empty()).unwrap();
    }
}

/// In memory where that is possible: a disk's file system takes milliseconds for each directory.
fn fast_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: {what} needs root");
    }
    root
}

#[test]
fn directories_deeper_than_descriptors_and_stack_reach_are_removed() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let directory = fast_directory();
    for depth in [20, 1_100, 15_000] {
        let tree = directory.path().join("tree");
        nest(&tree, depth);
        setrlimit(Resource::RLIMIT_NOFILE, 40, hard).unwrap();
        // A thread's stack, as the worker's are, and smaller.
        let thread = std::thread::Builder::new().stack_size(128 << 10);
        let path = tree.clone();
        let removed = thread.spawn(move || panda_tree::remove(&path)).unwrap();
        removed.join().unwrap().unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert!(!tree.exists(), "{depth}");
    }
}

#[test]
fn a_wide_tree_and_odd_names_are_removed_and_what_links_lead_to_stays() {
    use std::os::unix::ffi::OsStrExt as _;
    let directory = fast_directory();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "x").unwrap();
    let tree = directory.path().join("tree");
    for number in 0..40 {
        let branch = tree.join(format!("{number}"));
        nest(&branch.join("deep"), 30);
        symlink(&outside, branch.join("link")).unwrap();
        fs::write(branch.join(std::ffi::OsStr::from_bytes(b"\xff\n\x0c")), "x").unwrap();
        nix::unistd::mkfifo(&branch.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    panda_tree::remove(&tree).unwrap();
    assert!(!tree.exists() && outside.join("kept").exists());
    panda_tree::remove(&tree).unwrap();
    symlink(&outside, &tree).unwrap();
    assert!(panda_tree::empty(&tree).is_err(), "a link is no directory");
    panda_tree::remove(&tree).unwrap();
    assert!(fs::symlink_metadata(&tree).is_err() && outside.join("kept").exists());
}

#[test]
fn directories_that_their_owner_may_not_enter_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let as_root = nix::unistd::geteuid().is_root();
    if as_root {
        // Root may enter everything, so somebody else does the work.
        chown(directory.path(), Some(65_534), Some(65_534)).unwrap();
        nix::unistd::seteuid(65_534.into()).unwrap();
    }
    let tree = directory.path().join("tree");
    nest(&tree, 3);
    for closed in ["d/d", "d", ""] {
        fs::set_permissions(tree.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
    }
    panda_tree::remove(&tree).unwrap();
    assert!(!tree.exists());
}

fn fix(path: &Path, flag: IFlags) -> bool {
    let opened = fs::File::open(path).unwrap();
    ioctl_getflags(&opened)
        .and_then(|flags| ioctl_setflags(&opened, flags | flag))
        .is_ok()
}

#[test]
fn immutable_and_append_only_files_and_directories_are_removed() {
    if !is_root("chattr") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for flag in [IFlags::IMMUTABLE, IFlags::APPEND] {
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("closed/empty")).unwrap();
        fs::create_dir(tree.join("empty")).unwrap();
        fs::write(tree.join("closed/file"), "x").unwrap();
        fs::write(tree.join("file"), "x").unwrap();
        fs::hard_link(tree.join("file"), tree.join("other")).unwrap();
        for path in ["closed/file", "closed/empty", "closed", "empty", "file", ""] {
            if !fix(&tree.join(path), flag) {
                println!("skipped: this file system has no inode flags");
                return;
            }
        }
        panda_tree::remove(&tree).unwrap();
        assert!(!tree.exists(), "{flag:?}");
    }
}

#[test]
fn what_is_mounted_in_a_tree_is_unmounted_and_not_emptied() {
    if !is_root("mounting") {
        return;
    }
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (home, tree) = (directory.path().join("home"), directory.path().join("tree"));
    fs::create_dir(&home).unwrap();
    fs::write(home.join("kept"), "x").unwrap();
    for place in ["bound", "deep/er/bound", "twice", "memory"] {
        fs::create_dir_all(tree.join(place)).unwrap();
    }
    fs::write(tree.join("file"), "x").unwrap();
    for place in ["bound", "deep/er/bound", "twice", "twice"] {
        // Of the same file system: no device number tells it apart.
        mount(Some(&home), &tree.join(place), none, MsFlags::MS_BIND, none).unwrap();
    }
    mount(
        Some(&home.join("kept")),
        &tree.join("file"),
        none,
        MsFlags::MS_BIND,
        none,
    )
    .unwrap();
    mount(
        Some("tmpfs"),
        &tree.join("memory"),
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .unwrap();
    fs::write(tree.join("memory/file"), "x").unwrap();
    panda_tree::remove(&tree).unwrap();
    assert!(!tree.exists());
    assert_eq!(fs::read_to_string(home.join("kept")).unwrap(), "x");
}

/// A tree of nobody's with something of root's that nobody may remove, deep in it.
fn stubborn(directory: &Path) -> (PathBuf, PathBuf) {
    chown(directory, Some(65_534), Some(65_534)).unwrap();
    nix::unistd::seteuid(65_534.into()).unwrap();
    let tree = directory.join("tree");
    let deep = tree.join(["d"; 60].join("/"));
    nest(&tree, 120);
    for sibling in ["a", "e", "z"] {
        nest(&deep.join(sibling), 40);
        nest(&tree.join(sibling), 40);
    }
    nix::unistd::seteuid(0.into()).unwrap();
    fs::create_dir(deep.join("roots")).unwrap();
    fs::write(deep.join("roots/file"), "x").unwrap();
    nix::unistd::seteuid(65_534.into()).unwrap();
    (tree, deep)
}

#[test]
fn what_cannot_be_removed_is_named_and_everything_else_goes() {
    if !is_root("changing who one is") {
        return;
    }
    let directory = fast_directory();
    let (tree, deep) = stubborn(directory.path());
    let error = panda_tree::remove(&tree).unwrap_err();
    assert_eq!(error.left, 1, "{error}");
    assert!(error.first.ends_with("roots/file"), "{error}");
    let rest = |path: &Path| fs::read_dir(path).unwrap().count();
    assert_eq!(
        (rest(&tree), rest(&deep)),
        (1, 1),
        "only the way down to it is left"
    );
    nix::unistd::seteuid(0.into()).unwrap();
}

#[test]
fn a_stuck_tree_is_set_aside_and_the_place_is_clean() {
    if !is_root("changing who one is") {
        return;
    }
    let directory = fast_directory();
    let (place, aside) = (
        directory.path().join("tree"),
        directory.path().join("stuck"),
    );
    for number in 0..2 {
        let (_, _) = stubborn(directory.path());
        let stuck = panda_tree::fresh_directory(&place, &aside)
            .unwrap()
            .unwrap();
        assert_eq!(stuck.place, aside.join(number.to_string()));
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        fs::remove_dir(&place).unwrap();
    }
    nix::unistd::seteuid(0.into()).unwrap();
    panda_tree::remove(&aside).unwrap();
    assert!(
        panda_tree::fresh_directory(&place, &aside)
            .unwrap()
            .is_none()
    );
    assert!(place.is_dir() && !aside.exists());
}
