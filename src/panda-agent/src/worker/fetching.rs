//! What apt says when it could not fetch something: the network, a proxy, a name server, or an archive
//! that was being written while it was read. None of that says anything about a package.
//!
//! `apt-get update` ends with 0 when it cannot connect, and keeps what it had, so its words are what counts. They are the
//! same since apt 0.7, and builds are given `LANG=C`. Only the lines that sum up are read: `Err:` comes before each of apt's
//! own tries too.

/// Whether a line of apt's says that something could not be fetched.
pub(crate) fn is_trouble(line: &str) -> bool {
    let line = line
        .strip_prefix("E: ")
        .or_else(|| line.strip_prefix("W: "))
        .unwrap_or(line);
    [
        "Failed to fetch ",
        "Unable to fetch some archives",
        "Some index files failed to download",
        "Some files failed to download",
        "An error occurred during the signature verification. The repository is not updated",
        "There were unauthenticated packages and -y was used without",
    ]
    .iter()
    .any(|known| line.starts_with(known))
}

/// Whether a line says that what was fetched has been used, and failed: that was no trouble of fetching.
pub(crate) fn is_past(line: &str) -> bool {
    line.starts_with("E: Sub-process ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_trouble_is_known_in_the_words_of_old_and_new_apts() {
        for line in [
            "W: Failed to fetch http://127.0.0.1:9/./InRelease  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)",
            "E: Failed to fetch http://x.example/a.deb  Hash Sum mismatch",
            "E: Failed to fetch http://x.example/a.deb  404  Not Found [IP: 192.0.2.1 80]",
            "E: Failed to fetch http://x.example/a.deb  407  Proxy Authentication Required",
            "E: Failed to fetch http://x.example/a.deb  File has unexpected size (1 != 2). Mirror sync in progress?",
            "W: Failed to fetch http://x.example/dists/x/InRelease  Temporary failure resolving 'x.example'",
            "Failed to fetch http://x.example/a.deb  Connection timed out",
            "W: Some index files failed to download. They have been ignored, or old ones used instead.",
            "E: Some index files failed to download, they have been ignored, or old ones used instead.",
            "E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?",
        ] {
            assert!(is_trouble(line), "{line}");
        }
    }

    #[test]
    fn other_words_are_no_trouble() {
        for line in [
            "Ign:1 http://127.0.0.1:9 ./ InRelease",
            "Err:1 http://127.0.0.1:9 ./ InRelease",
            "W: Download is performed unsandboxed as root",
            "N: Skipping acquire of configured file 'main/binary-i386/Packages'",
            "E: Unable to correct problems, you have held broken packages.",
            " installer: Failed to fetch something",
        ] {
            assert!(!is_trouble(line), "{line}");
        }
    }
}
