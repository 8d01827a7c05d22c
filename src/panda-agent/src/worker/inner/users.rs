//! The user that builds. sbuild and schroot look users up on the host, and the chroot's programs look
//! them up in the chroot, so both must agree. The chroot's ids win: it may have files of that user.
//! It gets the user `sbuild` where it has none, and this build's view of the host's `/etc/passwd` and
//! `/etc/group` gets the same ids, by a mount that nobody else sees. These files are bytes, whatever encoding their
//! people's names are in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mounts::{MountError, cover};
use super::root::Root;

/// The user and group that builds run as.
pub(crate) const USER: &str = "sbuild";
/// Where ids are taken from for a chroot without the user: Debian's dynamic system range.
const IDS: std::ops::Range<u32> = 100..999;
/// The most bytes of a `passwd` or `group`.
const MAX_BYTES: u64 = 64 << 20;

/// Why the user was not set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsersError {
    /// A file could not be read or written.
    #[error("cannot set up the user {USER} in {file}: {source}")]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// All ids are taken.
    #[error("the chroot has no free system user id for the user {USER}")]
    NoId,
    /// The host's files cannot be covered.
    #[error(transparent)]
    Mount(#[from] MountError),
}

/// Sets the user up in the chroot and in this build's view of the host; `private` is this build's.
pub(crate) fn set_up(root: &Root, private: &Path) -> Result<(), UsersError> {
    let inside = |path: &str| {
        let failed = |source| UsersError::Io {
            file: root.path().join(path),
            source,
        };
        let bytes = root.read(path, MAX_BYTES).map_err(failed)?;
        Ok::<_, UsersError>(bytes.unwrap_or_default())
    };
    let (mut passwd, mut group) = (inside("etc/passwd")?, inside("etc/group")?);
    let ids = Ids::ensure(&mut passwd, &mut group)?;
    for (path, bytes) in [("etc/passwd", &passwd), ("etc/group", &group)] {
        root.write(path, bytes, 0o644)
            .map_err(|source| UsersError::Io {
                file: root.path().join(path),
                source,
            })?;
    }
    for (path, line) in [
        ("/etc/passwd", ids.passwd_line()),
        ("/etc/group", ids.group_line()),
    ] {
        let path = Path::new(path);
        let failed = |source| UsersError::Io {
            file: path.to_owned(),
            source,
        };
        let host = fs::read(path).map_err(failed)?;
        let own = private.join(path.file_name().unwrap_or_default());
        fs::write(&own, with_line(&host, &line)).map_err(failed)?;
        cover(&own, path)?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    user: u32,
    group: u32,
}

impl Ids {
    /// The ids of the user, which is added where it is missing.
    fn ensure(passwd: &mut Vec<u8>, group: &mut Vec<u8>) -> Result<Self, UsersError> {
        let group_id = match id_of(group) {
            Some(id) => id,
            None => free_id(group).ok_or(UsersError::NoId)?,
        };
        let user = match id_of(passwd) {
            Some(id) => id,
            None => free_id(passwd).ok_or(UsersError::NoId)?,
        };
        let ids = Self {
            user,
            group: group_id,
        };
        if id_of(group).is_none() {
            *group = with_line(group, &ids.group_line());
        }
        if id_of(passwd).is_none() {
            *passwd = with_line(passwd, &ids.passwd_line());
        }
        Ok(ids)
    }

    /// `*` and not `x`: there is no line in `shadow` to go with it.
    fn passwd_line(self) -> String {
        format!(
            "{USER}:*:{}:{}:Debian source builder:/var/lib/sbuild:/bin/bash",
            self.user, self.group
        )
    }

    fn group_line(self) -> String {
        format!("{USER}:*:{}:", self.group)
    }
}

/// The third field of the user's line, in `passwd` and in `group`.
fn id_of(text: &[u8]) -> Option<u32> {
    lines(text).find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        (fields.next() == Some(USER.as_bytes()))
            .then(|| number(fields.nth(1)?))
            .flatten()
    })
}

fn free_id(text: &[u8]) -> Option<u32> {
    let taken: Vec<u32> = lines(text)
        .filter_map(|line| number(line.split(|byte| *byte == b':').nth(2)?))
        .collect();
    IDS.rev().find(|id| !taken.contains(id))
}

/// `text` with `line` in the place of the user's own.
fn with_line(text: &[u8], line: &str) -> Vec<u8> {
    let own = format!("{USER}:");
    let mut out = Vec::new();
    for kept in lines(text).filter(|kept| !kept.starts_with(own.as_bytes())) {
        out.extend_from_slice(kept);
        out.push(b'\n');
    }
    out.extend_from_slice(line.as_bytes());
    out.push(b'\n');
    out
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chroot_without_the_user_gets_it_with_free_ids() {
        let mut passwd = b"root:x:0:0:root:/root:/bin/bash\nother:x:998:998::/:/bin/sh\n".to_vec();
        let mut group = b"root:x:0:\n".to_vec();
        let ids = Ids::ensure(&mut passwd, &mut group).unwrap();
        assert_eq!(
            ids,
            Ids {
                user: 997,
                group: 998
            }
        );
        assert!(
            passwd.ends_with(b"sbuild:*:997:998:Debian source builder:/var/lib/sbuild:/bin/bash\n")
        );
        assert!(group.ends_with(b"sbuild:*:998:\n"));
    }

    #[test]
    fn a_chroot_with_the_user_keeps_its_ids() {
        let mut passwd = b"sbuild:x:105:106::/var/lib/sbuild:/bin/bash\n".to_vec();
        let mut group = b"sbuild:x:106:root\n".to_vec();
        let before = (passwd.clone(), group.clone());
        assert_eq!(
            Ids::ensure(&mut passwd, &mut group).unwrap(),
            Ids {
                user: 105,
                group: 106
            }
        );
        assert_eq!((passwd, group), before);
    }

    #[test]
    fn the_host_gets_the_same_ids_in_the_place_of_its_own() {
        let host =
            b"root:x:0:0::/root:/bin/sh\nsbuild:x:1:1::/:/bin/sh\nsbuilder:x:2:2::/:/bin/sh\n";
        assert_eq!(
            with_line(host, "sbuild:*:9:9::/:/bin/sh"),
            b"root:x:0:0::/root:/bin/sh\nsbuilder:x:2:2::/:/bin/sh\nsbuild:*:9:9::/:/bin/sh\n"
        );
    }

    #[test]
    fn a_chroot_without_free_ids_is_refused() {
        let full: String = (100..999).map(|id| format!("u{id}:x:{id}:\n")).collect();
        let mut full = full.into_bytes();
        assert!(matches!(
            Ids::ensure(&mut full.clone(), &mut full),
            Err(UsersError::NoId)
        ));
    }

    #[test]
    fn names_in_any_encoding_stay_as_they_are() {
        let mut passwd = b"jose:x:1000:1000:Jos\xe9 Garc\xeda,,,:/home/jose:/bin/bash".to_vec();
        let mut group = b"jos\xe9:x:1000:\n".to_vec();
        let before = passwd.clone();
        Ids::ensure(&mut passwd, &mut group).unwrap();
        assert!(passwd.starts_with(&before) && group.starts_with(b"jos\xe9:x:1000:\nsbuild:"));
        assert!(with_line(&before, "sbuild:*:9:9::/:/bin/sh").starts_with(&before));
    }
}
