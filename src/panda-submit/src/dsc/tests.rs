//! Packages that are right, and every way to be wrong.

use super::*;

const DATA: &[u8] = b"the source\n";

fn sums() -> Sums {
    Sums::of(DATA).unwrap()
}

/// A directory with `hello_1.0.tar.xz` and the `.dsc` that `edit` makes of a right one.
fn package(edit: impl Fn(String) -> String) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("hello_1.0.tar.xz"), DATA).unwrap();
    let Sums { md5, sha1, sha256 } = sums();
    let text = format!(
        "Format: 3.0 (native)\nSource: hello\nVersion: 1.0\nBinary: hello\n\
         Checksums-Sha1:\n {sha1} 11 hello_1.0.tar.xz\n\
         Checksums-Sha256:\n {sha256} 11 hello_1.0.tar.xz\n\
         Files:\n {md5} 11 hello_1.0.tar.xz\n"
    );
    let path = directory.path().join("hello_1.0.dsc");
    std::fs::write(&path, edit(text)).unwrap();
    (directory, path)
}

fn refusal(edit: impl Fn(String) -> String) -> String {
    let (_directory, path) = package(edit);
    SourcePackage::open(&path).unwrap_err().to_string()
}

#[test]
fn a_right_package_is_read_with_the_dsc_first() {
    let (_directory, path) = package(|text| text);
    let package = SourcePackage::open(&path).unwrap();
    assert_eq!(
        (package.source.as_str(), package.version.as_str()),
        ("hello", "1.0")
    );
    let names: Vec<_> = package
        .files
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(names, ["hello_1.0.dsc", "hello_1.0.tar.xz"]);
    assert_eq!(package.files[1].sha1, Sha1::of(DATA));
    assert_eq!(
        package.files[0].sha1,
        Sha1::of(&std::fs::read(&path).unwrap())
    );
}

#[test]
fn an_inline_signature_is_taken_off_and_dashes_unescaped() {
    let (_directory, path) = package(|text| {
        format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{}\n\
             -----BEGIN PGP SIGNATURE-----\n\niQ==\n-----END PGP SIGNATURE-----\n",
            text.replace("Binary: hello", "- Binary: hello")
        )
    });
    assert_eq!(SourcePackage::open(&path).unwrap().files.len(), 2);
    let cut = refusal(|text| format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text}"));
    assert!(cut.contains("cut short"), "{cut}");
}

#[test]
fn a_missing_file_is_named() {
    let (directory, path) = package(|text| text);
    std::fs::remove_file(directory.path().join("hello_1.0.tar.xz")).unwrap();
    let message = SourcePackage::open(&path).unwrap_err().to_string();
    assert!(
        message.contains("hello_1.0.tar.xz") && message.contains("beside it"),
        "{message}"
    );
}

#[test]
fn each_sum_and_the_size_are_checked_by_itself() {
    let Sums { md5, sha1, sha256 } = sums();
    let sha1 = sha1.to_string();
    for (right, field) in [(&md5, "md5"), (&sha1, "sha1"), (&sha256, "sha256")] {
        let wrong = "0".repeat(right.len());
        let message = refusal(|text| text.replace(right.as_str(), &wrong));
        assert!(
            message.contains(&format!("says {field} {wrong}")),
            "{message}"
        );
    }
    let message = refusal(|text| text.replace(" 11 ", " 12 "));
    assert!(
        message.contains("size 12") && message.contains("has 11"),
        "{message}"
    );
    let message = refusal(|text| text.replacen(" 11 ", " 12 ", 1));
    assert!(message.contains("two sizes"), "{message}");
}

#[test]
fn names_that_leave_the_directory_are_refused() {
    for name in ["../hello_1.0.tar.xz", "/etc/passwd", "..", "a/b", "a\u{0}b"] {
        let message = refusal(|text| text.replace("hello_1.0.tar.xz", name));
        assert!(message.contains("one component"), "{name:?}: {message}");
    }
}

#[test]
fn what_is_no_dsc_is_refused_with_its_line() {
    assert!(refusal(|_| "hello".into()).contains("line 1: expected `Field: value`"));
    assert!(refusal(|_| String::new()).contains("names no files"));
    assert!(refusal(|_| " goes on\n".into()).contains("line 1: goes on"));
    assert!(refusal(|text| format!("{text}\nPackage: x\n")).contains("second paragraph"));
    assert!(refusal(|text| text.replace("Version: 1.0\n", "")).contains("no field Version"));
    assert!(refusal(|text| format!("{text}Source: twice\n")).contains("second time"));
    assert!(refusal(|text| text.replace(" 11 ", " eleven ")).contains("sum bytes name"));
    assert!(refusal(|text| "x".repeat(2 << 20) + &text).contains("more than"));
}

#[test]
fn a_dsc_in_any_encoding_is_sent_as_it_is() {
    for text in [&b"Jos\xe9"[..], b"Jos\xc3\xa9", b"a\x0cb", b"\xc2\x89"] {
        let (_directory, path) = package(|text| text);
        let uploaders = [b"Uploaders: ", text, b" <j@example.org>,\n ", text, b"\n"].concat();
        let whole = [&uploaders[..], &std::fs::read(&path).unwrap()].concat();
        std::fs::write(&path, &whole).unwrap();
        let package = SourcePackage::open(&path).unwrap();
        assert_eq!(package.files[0].sha1, Sha1::of(&whole), "{text:?}");
        let named = String::from_utf8_lossy(&whole).replace("11 hello", "11 \u{fffd}hello");
        std::fs::write(&path, named.replace('\u{fffd}', "caf")).unwrap();
        assert!(matches!(
            SourcePackage::open(&path),
            Err(DscError::Missing { .. })
        ));
        std::fs::write(&path, named).unwrap();
        assert!(
            SourcePackage::open(&path)
                .unwrap_err()
                .to_string()
                .contains("not UTF-8")
        );
    }
}

#[test]
fn a_file_that_is_no_regular_file_is_refused_without_being_opened() {
    let (directory, path) = package(|text| text);
    let tarball = directory.path().join("hello_1.0.tar.xz");
    std::fs::remove_file(&tarball).unwrap();
    nix::unistd::mkfifo(&tarball, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let message = SourcePackage::open(&path).unwrap_err().to_string();
    assert!(message.contains("not a regular file"), "{message}");
}
