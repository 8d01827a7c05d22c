//! From a builder that says IDLE to one that says BUILDING, call for call as Launchpad's manager does it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use dxr::Value;
use futures_util::future::try_join_all;
use panda_http::BuilderClient;
use panda_http::endpoint::ClientError;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{
    BuildCall, BuildId, BuildReply, EnsurePresent, FileName, Presence, Status, StatusReport, Sum,
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::dsc::SourcePackage;
use crate::serve::FileServer;
use crate::{Request, Show, one_line};

/// Between two looks at a builder that is not ready.
const PAUSE: Duration = Duration::from_secs(2);
/// An answer that takes longer is something to be told of.
const SILENT: Duration = Duration::from_secs(1);

/// What is built, from what.
#[derive(Debug)]
pub(crate) struct Job {
    chroot: Sha1,
    filemap: BTreeMap<FileName, Sum>,
    keys: Vec<String>,
}

impl Job {
    /// The build of `package` in `chroot`.
    #[must_use]
    pub(crate) fn new(package: &SourcePackage, chroot: Sha1, keys: Vec<String>) -> Self {
        let filemap = package
            .files
            .iter()
            .map(|file| (file.name.clone(), file.sha1.into()))
            .collect();
        Self {
            chroot,
            filemap,
            keys,
        }
    }

    /// `build`'s arguments. Asks the builder for its architecture where none was given.
    ///
    /// # Errors
    /// The builder does not say.
    pub(crate) async fn call(
        &self,
        request: &Request,
        client: &BuilderClient,
    ) -> anyhow::Result<BuildCall> {
        let arch = match &request.arch {
            Some(arch) => arch.clone(),
            None => {
                client
                    .info()
                    .await
                    .context("asking the builder for its architecture (or give --arch)")?
                    .arch
            }
        };
        let id = format!("PACKAGEBUILD-{}", jiff::Timestamp::now().as_millisecond());
        Ok(BuildCall {
            build_id: BuildId::try_from(id)?,
            build_type: "binarypackage".to_owned(),
            chroot: self.chroot.into(),
            filemap: self.filemap.clone(),
            args: arguments(request, &arch, &self.keys),
        })
    }
}

/// All that Launchpad's manager gives a `binarypackage` build.
fn arguments(request: &Request, arch: &str, keys: &[String]) -> BTreeMap<String, Value> {
    let text = |text: &str| Value::String(text.to_owned());
    let list = |items: &[String]| Value::Array(items.iter().map(|item| text(item)).collect());
    let series = request
        .series
        .as_deref()
        .unwrap_or_else(|| series_of(&request.suite));
    [
        ("series", text(series)),
        ("suite", text(&request.suite)),
        ("arch_tag", text(arch)),
        ("abi_tag", text(arch)),
        ("isa_tag", text(arch)),
        ("arch_indep", Value::Boolean(request.arch_indep)),
        ("archive_purpose", text(&request.purpose)),
        ("ogrecomponent", text("main")),
        ("archives", list(&request.archives)),
        ("trusted_keys", list(keys)),
        ("archive_private", Value::Boolean(false)),
        ("build_debug_symbols", Value::Boolean(request.debug_symbols)),
        ("image_type", text("chroot")),
        ("fast_cleanup", Value::Boolean(true)),
        ("builder_constraints", list(&[])),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The suite less its pocket.
fn series_of(suite: &str) -> &str {
    [
        "-release",
        "-security",
        "-updates",
        "-proposed",
        "-backports",
    ]
    .into_iter()
    .find_map(|pocket| suite.strip_suffix(pocket))
    .filter(|series| !series.is_empty())
    .unwrap_or(suite)
}

/// Waits until the builder says IDLE, and says what for. A fault (a slot between boots) or silence is tried
/// again until `patience` is over; any other answer means that somebody else has the builder.
///
/// # Errors
/// It is busy, or not ready in time.
pub(crate) async fn ready(
    client: &BuilderClient,
    patience: Duration,
    show: &mut dyn Show,
) -> anyhow::Result<()> {
    let until = Instant::now() + patience;
    let mut waiting = Waiting {
        show,
        patience,
        said: None,
    };
    loop {
        let error = match waiting.status(client, until).await {
            None => anyhow::anyhow!("it does not answer"),
            Some(Ok(report)) => match report.status {
                Status::Idle => return Ok(()),
                // 2011's way of saying that the slot is between boots.
                Status::Aborting { build_id: None } => {
                    anyhow::anyhow!("the builder is between boots")
                }
                status => bail!("the builder is busy: {}", describe(&status)),
            },
            // The builder's own words on where it stands.
            Some(Err(ClientError::Fault { code, text })) => {
                anyhow::anyhow!("fault {code}: {}", text.as_str())
            }
            Some(Err(error @ (ClientError::Transport(_) | ClientError::TimedOut(_)))) => {
                anyhow::Error::from(error)
            }
            Some(Err(error)) => return Err(error).context("this is no builder that can be used"),
        };
        if Instant::now() + PAUSE > until {
            return Err(error).context(format!(
                "the builder was not ready within {} s",
                patience.as_secs()
            ));
        }
        waiting.say(&format!("{error:#}"));
        sleep(PAUSE).await;
    }
}

/// Says what is waited for: on a line that stays whenever it is something else than before.
struct Waiting<'a> {
    show: &'a mut dyn Show,
    patience: Duration,
    said: Option<String>,
}

impl Waiting<'_> {
    fn say(&mut self, reason: &str) {
        if self.said.as_deref() != Some(reason) {
            let seconds = self.patience.as_secs();
            self.show.note(&format!(
                "waiting up to {seconds} s for the builder: {reason}"
            ));
            self.said = Some(reason.to_owned());
        }
        self.show
            .progress(&format!("waiting for the builder: {reason}"));
    }

    /// The builder's status; none where it is not there in time. An answer that takes long is waited for aloud.
    async fn status(
        &mut self,
        client: &BuilderClient,
        until: Instant,
    ) -> Option<Result<StatusReport, ClientError>> {
        let until = until.max(Instant::now() + PAUSE);
        let asked = timeout_at(until, client.status());
        tokio::pin!(asked);
        let answered = tokio::select! {
            answered = &mut asked => answered,
            () = sleep(SILENT) => {
                self.say("it has not answered yet");
                asked.await
            }
        };
        answered.ok()
    }
}

fn describe(status: &Status) -> String {
    match status {
        Status::Idle => "idle".to_owned(),
        Status::Building { build_id, .. } => format!("it builds {}", one_line(build_id.as_str())),
        Status::Aborting { build_id } => format!(
            "it aborts {}",
            one_line(
                build_id
                    .as_ref()
                    .map_or("a build", |build_id| build_id.as_str())
            )
        ),
        Status::Aborted { build_id } | Status::Waiting { build_id, .. } => format!(
            "it keeps the results of {} for somebody; reset it if nobody wants them",
            one_line(build_id.as_str())
        ),
    }
}

/// Has the builder fetch the chroot and every source file, all at once.
///
/// # Errors
/// One of them it could not fetch; why, in its words.
pub(crate) async fn send_files(
    client: &BuilderClient,
    job: &Job,
    package: &SourcePackage,
    chroot: &Path,
    server: &FileServer,
) -> anyhow::Result<()> {
    let files = std::iter::once(("the chroot", job.chroot, chroot)).chain(
        package
            .files
            .iter()
            .map(|file| (file.name.as_str(), file.sha1, file.path.as_path())),
    );
    try_join_all(files.map(|(name, sha1, path)| {
        let call = EnsurePresent {
            sum: sha1.into(),
            url: Some(server.add(sha1, path)),
            username: String::new(),
            password: String::new(),
        };
        async move {
            let answer = client.ensure_present(call).await;
            match answer.with_context(|| format!("giving the builder {name}"))? {
                Presence { present: true, .. } => Ok(()),
                Presence { present: false, info } => bail!(
                    "the builder could not fetch {name}: {info}; it must be able to reach this machine (see --serve)"
                ),
            }
        }
    }))
    .await?;
    Ok(())
}

/// Starts the build.
///
/// # Errors
/// The builder refuses it.
pub(crate) async fn build(client: &BuilderClient, call: BuildCall) -> anyhow::Result<()> {
    let reply = match client.build(call).await {
        Ok(reply) => reply,
        // The arguments that it may quote are the user's own.
        Err(ClientError::Fault { code, text }) => {
            bail!("starting the build: fault {code}: {}", text.as_str())
        }
        Err(error) => return Err(error).context("starting the build"),
    };
    match reply {
        BuildReply::Building { .. } => Ok(()),
        BuildReply::UnknownBuilder(info) => {
            bail!("the builder cannot build source packages: {info}")
        }
        BuildReply::UnknownSum(info) => bail!("the builder has lost a file: {info}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_is_the_suite_less_its_pocket() {
        for (suite, series) in [
            ("noble", "noble"),
            ("noble-proposed", "noble"),
            ("bookworm-security", "bookworm"),
            ("unstable", "unstable"),
            ("-updates", "-updates"),
            ("my-suite", "my-suite"),
        ] {
            assert_eq!(series_of(suite), series);
        }
    }

    /// The names and types that a recorded manager sent (`fixtures/exchanges/005-build-building.http`),
    /// less those that only Launchpad itself can know.
    #[test]
    fn the_arguments_are_those_that_the_manager_sends() {
        let exchange = include_str!("../../../fixtures/exchanges/005-build-building.http");
        let request = exchange.split("--- answer ---").next().unwrap();
        let document = request[request.find("<?xml").unwrap()..].trim_end();
        let (method, params) =
            panda_protocol::launchpad::xml::decode_call(document.as_bytes(), &Default::default())
                .unwrap();
        let panda_protocol::launchpad::Call::Build(recorded) =
            panda_protocol::launchpad::Call::decode(&method, params).unwrap()
        else {
            panic!("a build")
        };
        let request = Request {
            suite: "noble".to_owned(),
            ..crate::tests::request()
        };
        let ours = arguments(&request, "armhf", &[]);
        let launchpads = ["build_url", "launchpad_instance", "launchpad_server_url"];
        for (name, value) in &recorded.args {
            if launchpads.contains(&name.as_str()) {
                continue;
            }
            let ours = ours
                .get(name)
                .unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(
                std::mem::discriminant(ours),
                std::mem::discriminant(value),
                "{name}"
            );
        }
        for name in [
            "series",
            "suite",
            "arch_tag",
            "archive_purpose",
            "ogrecomponent",
            "archives",
            "image_type",
        ] {
            assert_eq!(ours.get(name), recorded.args.get(name), "{name}");
        }
    }
}
