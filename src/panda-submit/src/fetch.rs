//! Brings a build's results here: every file checked against its hash, none placed before all have come,
//! no name that could do harm.

use std::path::Path;

use anyhow::{Context as _, bail};
use panda_http::BuilderClient;
use panda_http::draft::Draft;
use panda_protocol::launchpad::{BuildStatus, FileName, Outcome};

use super::dsc::SourcePackage;
use crate::one_line;

/// The most bytes of one result.
const MAX_BYTES: u64 = 16 << 30;

/// Fetches the results of `outcome` into `directory`.
///
/// # Errors
/// A file that cannot be had, is not what its hash says, or has a name that is refused.
pub(crate) async fn results(
    client: &BuilderClient,
    outcome: &Outcome,
    directory: &Path,
    package: &SourcePackage,
) -> anyhow::Result<()> {
    if outcome.build_status != BuildStatus::Ok {
        return Ok(());
    }
    for name in outcome.filemap.keys() {
        check_name(name, directory, package)?;
    }
    let mut finished = Vec::new();
    for (name, sha1) in &outcome.filemap {
        let what = || format!("fetching {}", one_line(name.as_str()));
        let mut draft = Draft::new(directory).with_context(what)?;
        let mut pieces = client
            .file(&sha1.to_string(), MAX_BYTES)
            .await
            .with_context(what)?;
        while let Some(piece) = pieces.next().await.with_context(what)? {
            draft.write(&piece).await.with_context(what)?;
        }
        finished.push((name, draft.finish(*sha1).await.with_context(what)?));
    }
    for (name, file) in finished {
        let path = directory.join(name.as_str());
        file.place(&path)
            .with_context(|| path.display().to_string())?;
        readable(&path)?;
    }
    Ok(())
}

/// A draft is its maker's alone; a result is as any other new file.
fn readable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
        .with_context(|| path.display().to_string())
}

/// A builder may be hostile: its results must not become hidden files, nor take the place of the source.
fn check_name(name: &FileName, directory: &Path, package: &SourcePackage) -> anyhow::Result<()> {
    let shown = one_line(name.as_str());
    if name.as_str().starts_with('.') {
        bail!("the builder has a result named {shown}; hidden files are refused");
    }
    let path = directory.join(name.as_str());
    let (Ok(place), true) = (path.canonicalize(), path.exists()) else {
        return Ok(());
    };
    let is_source = |source: &Path| source.canonicalize().is_ok_and(|source| source == place);
    if package.files.iter().any(|file| is_source(&file.path)) {
        bail!(
            "the builder has a result named {shown}, which would take the place of the source; use another --output"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::dsc::SourceFile;
    use super::*;
    use panda_protocol::digest::Sha1;

    fn name(text: &str) -> FileName {
        FileName::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn names_that_could_do_harm_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hello_1.0.tar.xz");
        std::fs::write(&path, "source").unwrap();
        let source = name("hello_1.0.tar.xz");
        let sha1 = Sha1::of(b"source");
        let package = SourcePackage {
            source: "hello".into(),
            version: "1.0".into(),
            files: vec![SourceFile {
                name: source.clone(),
                path,
                sha1,
            }],
        };
        let check = |text: &str| check_name(&name(text), directory.path(), &package);
        check("hello_1.0_armhf.deb").unwrap();
        assert!(check(".bashrc").unwrap_err().to_string().contains("hidden"));
        assert!(
            check(source.as_str())
                .unwrap_err()
                .to_string()
                .contains("the source")
        );
    }
}
