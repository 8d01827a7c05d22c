//! Known secrets in known places, and planted secrets in any log cut anywhere.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn in_pieces(log: &[u8], ends: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sanitizer = LogSanitizer::default();
    let mut from = 0;
    let mut ends: Vec<usize> = ends.iter().map(|end| (*end).min(log.len())).collect();
    ends.push(log.len());
    ends.sort_unstable();
    for end in ends {
        sanitizer.push(&log[from..end], &mut out);
        assert!(sanitizer.pending.len() < LONGEST, "too much is held");
        from = end;
    }
    sanitizer.finish(&mut out);
    out
}

fn clean(log: &str) -> String {
    String::from_utf8(in_pieces(log.as_bytes(), &[])).unwrap()
}

#[test]
fn credentials_leave_every_url() {
    for (raw, shown) in [
        (
            "deb http://user:secret@ppa/ubuntu noble main\n",
            "deb http://ppa/ubuntu noble main\n",
        ),
        ("http://:secret@ppa/", "http://ppa/"),
        ("https://token@git/x", "https://git/x"),
        (
            "http://a:b@c/ http://d:e@f/,http://g:h@i/",
            "http://c/ http://f/,http://i/",
        ),
        (
            "['http://a:b@c/', \"http://d:e@f/\"]",
            "['http://c/', \"http://f/\"]",
        ),
        ("http://a:p@ss@host/", "http://host/"),
        ("http://a:b@[::1]:80/", "http://[::1]:80/"),
        ("http://a:b@c", "http://c"),
        ("http://a:b@", "http://"),
        ("ftp+x://a:b@c://d:e@f", "ftp+x://c://f"),
        ("http://http://a:b@c", "http://http://c"),
        ("http://é:ü@ö/", "http://ö/"),
        ("http://a:b@c\rhttp://d:e@f\r\n", "http://c\rhttp://f\r\n"),
    ] {
        assert_eq!(clean(raw), shown);
    }
}

#[test]
fn passwords_that_should_have_been_escaped_leave_too() {
    for raw in [
        "http://:tok:en/1@host/x",
        "http://user:a/b@host/x",
        "http://user:a?b@host/x",
        "http://user:a#b@host/x",
        "http://user:a\"b<c>{d}|e\\f^g`@host/x",
        "http://user:/@host/x",
        "http://user:p@a/s@host/x",
    ] {
        let shown = clean(raw);
        if raw.contains("p@a") {
            // The first `@` ends these credentials as far as any client can tell.
            assert_eq!(shown, "http://a/s@host/x");
        } else if raw.contains(":/@") {
            // An empty port: a host called `user`, and a path.
            assert_eq!(shown, raw);
        } else {
            assert_eq!(shown, "http://host/x");
        }
    }
}

#[test]
fn proxy_tokens_leave() {
    for (raw, shown) in [
        (
            "PROXY:p:%h:%p,proxyport=3128,proxyauth=user:secret\n",
            "PROXY:p:%h:%p,proxyport=3128\n",
        ),
        ("x,proxyauth=user:secret,y=z", "x,y=z"),
        ("'x,proxyauth=user:secret'", "'x'"),
        ("\"x,proxyauth=user:se/c=r+et\" y", "\"x\" y"),
        (",proxyauth=a:b,proxyauth=c:d e", " e"),
    ] {
        assert_eq!(clean(raw), shown);
    }
}

#[test]
fn everything_else_stays_byte_for_byte() {
    for log in [
        "",
        "\n\n",
        "no newline",
        "http://host/path@2x.png http://host:80/a@b http://host:/a@b http://[::1]:80/a@b\n",
        "git@github.com:x/y.git me@example.com proxyauth=x ://\n",
        "http://host/?q=a@b http://host#a@b \"http://host\"a@b <http://host>a@b\n",
        "a: //b@c a:/ /b@c http:/x:y@z\n",
        "Maintainer: A <a@b>\r\n[  50%]\r[ 100%]\x1b[0m\n",
    ] {
        assert_eq!(clean(log), log);
    }
    let binary: Vec<u8> = (0..=255).collect();
    assert_eq!(in_pieces(&binary, &[10, 100, 200]), binary);
}

#[test]
fn lines_leave_when_they_are_whole() {
    let mut out = Vec::new();
    let mut sanitizer = LogSanitizer::default();
    sanitizer.push(b"one\ntwo http://us", &mut out);
    assert_eq!(out, b"one\n");
    sanitizer.push(b"er:secret@host/\nthr", &mut out);
    assert_eq!(out, b"one\ntwo http://host/\n");
    assert!(!format!("{sanitizer:?}").contains("thr"));
    sanitizer.finish(&mut out);
    assert_eq!(out, b"one\ntwo http://host/\nthr");
    sanitizer.finish(&mut out);
    assert_eq!(out, b"one\ntwo http://host/\nthr");
}

#[test]
fn an_overlong_line_is_let_go_in_pieces_around_its_secrets() {
    let secrets = [
        ("http://us:secret@host/", "http://host/"),
        (",proxyauth=us:secret", ""),
    ];
    for (secret, shown) in secrets {
        for fill in ["x", " ", ":", "@", ",proxyaut"] {
            // Every place that the end of what is held can have within the secret.
            for shift in 0..=secret.len() {
                let fill = fill.repeat((LONGEST - shift) / fill.len());
                assert_eq!(
                    clean(&format!("{fill}{secret} y\n")),
                    format!("{fill}{shown} y\n")
                );
            }
        }
    }
}

#[test]
fn a_word_full_of_markers_takes_no_longer_than_its_length() {
    // Were each marker's reach looked for to the word's end, this would not end today.
    let markers = "://".repeat(3_000_000);
    assert_eq!(clean(&markers), markers);
}

#[test]
fn a_line_without_an_end_is_let_go() {
    let mut out = Vec::new();
    let mut sanitizer = LogSanitizer::default();
    for _ in 0..100 {
        sanitizer.push(&[b'x'; 10_000], &mut out);
    }
    assert!(out.len() > 1_000_000 - LONGEST);
}

#[test]
fn the_log_tail_is_short_and_begins_with_a_whole_line() {
    assert_eq!(log_tail(b"", true), b"");
    assert_eq!(log_tail(b"a\nb\n", true), b"a\nb\n");
    assert_eq!(log_tail(b"cut\nb\n", false), b"b\n");
    let full = [b"a\n".repeat(1023).as_slice(), b"bb"].concat();
    assert_eq!(log_tail(&full, true), full);
    let over = [b"cut\n".as_slice(), &b"a\n".repeat(1023)].concat();
    assert_eq!(log_tail(&over, true), b"a\n".repeat(1023));
    // A long line's midst is better than nothing.
    assert_eq!(log_tail(b"midst", false), b"midst");
    assert_eq!(log_tail(b"midst\n", false), b"midst\n");
    assert_eq!(log_tail(&[b'x'; 5000], true), [b'x'; 2048]);
}

/// Text with markers and their parts in it, and no secret.
fn filler() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z:/@,.\\[\\]\"' =\\n-]{0,12}",
        1 => prop::sample::select(vec![
            "\n", "\r\n", " ", "://", "http://", ",proxyauth=", ",proxy", "@", "http://u:p", "host:80/", "\u{e9}"
        ]).prop_map(str::to_owned),
        1 => (prop::sample::select(vec!["x", " ", "ab c", ":", ","]), 0..40_000usize)
            .prop_map(|(text, count)| text.repeat(count)),
    ]
}

/// A secret where it can occur.
fn planted() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "http://user:SECRET@host/",
        "http://:SECRET@host",
        "ssh://SECRET@host/",
        "https://user:SECRET%40SECRET@host:80/a@b",
        "http://user:a/SECRET@host",
        "http://user:SECRET#?\"@host",
        "http://us@er:SECRET@host",
        ",proxyauth=user:SECRET",
        ",proxyauth=SECRET\"",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_planted_secret_is_shown_and_the_pieces_do_not_matter(
        parts in vec(prop_oneof![2 => filler(), 1 => planted()], 0..12),
        ends in vec(0..200_000usize, 0..20),
        near in vec(0..200usize, 0..20),
    ) {
        let log = parts.concat();
        let out = in_pieces(log.as_bytes(), &[]);
        prop_assert!(!String::from_utf8_lossy(&out).contains("SECRET"));
        prop_assert_eq!(&in_pieces(log.as_bytes(), &ends), &out);
        prop_assert_eq!(&in_pieces(log.as_bytes(), &near), &out);
    }

    #[test]
    fn lines_are_sanitised_one_by_one(parts in vec(prop_oneof!["[a-z:/@, =]{0,30}", planted()], 0..12)) {
        let log = parts.join("\n");
        let each: String = log.split_inclusive('\n').map(clean).collect();
        prop_assert_eq!(each, clean(&log));
    }

    #[test]
    fn a_sanitised_log_loses_nothing_more(parts in vec(prop_oneof!["[a-z/ =\\n]{0,30}", planted()], 0..12)) {
        let once = clean(&parts.join(" "));
        prop_assert_eq!(clean(&once), once);
    }

    #[test]
    fn the_tail_is_an_end_of_the_log(log in vec(prop_oneof![Just(b'\n'), Just(b'x')], 0..5000), whole: bool) {
        let tail = log_tail(&log, whole);
        prop_assert!(tail.len() <= MAX_LOG_TAIL);
        prop_assert!(log.ends_with(tail));
        prop_assert!(log.is_empty() || !tail.is_empty());
    }
}
