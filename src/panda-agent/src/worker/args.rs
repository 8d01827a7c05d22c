//! A build's arguments, checked once when `build` is called; [`super::service`] reads them from the
//! call and everything behind it uses only these. Unknown keys are ignored, as the protocol wants.
//!
//! Text that ends up on a command line or in a line-based file is checked here for the characters
//! that would change its meaning there. No error quotes a value: archive lines hold passwords.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dxr::Value;
use serde::{Deserialize, Serialize};

/// The most archive lines or keys that one build may have.
const MAX_ITEMS: usize = 1_000;
/// The longest single text argument, in bytes.
const MAX_TEXT: usize = 8 * 1024;
/// The largest single key, in bytes of base64.
const MAX_KEY: usize = 1 << 20;

/// The arguments of a `binarypackage` build. `Debug` shows no archive: they hold passwords.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BuildArgs {
    /// The distribution's series, `noble`.
    pub(crate) series: String,
    /// The series, or the series and its pocket, `noble-proposed`: sbuild's `--dist`.
    pub(crate) suite: String,
    /// Debian architecture to build for.
    pub(crate) arch_tag: String,
    /// Build the architecture-independent packages too.
    pub(crate) arch_indep: bool,
    /// What the build is for, `PRIMARY`, `PPA`, …
    pub(crate) archive_purpose: String,
    /// The component, `main`.
    pub(crate) component: String,
    /// Lines of `sources.list`, possibly with passwords.
    pub(crate) archives: Vec<String>,
    /// Base64 OpenPGP keys, armoured or not.
    pub(crate) trusted_keys: Vec<String>,
    /// Build debug symbol packages.
    pub(crate) debug_symbols: bool,
    /// Logged first.
    pub(crate) build_url: Option<String>,
}

impl fmt::Debug for BuildArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildArgs")
            .field("suite", &self.suite)
            .field("arch_tag", &self.arch_tag)
            .field("archives", &self.archives.len())
            .finish_non_exhaustive()
    }
}

/// An argument that cannot be used. It quotes no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("build: argument {key} {problem}")]
pub(crate) struct ArgError {
    key: &'static str,
    problem: &'static str,
}

impl BuildArgs {
    /// Reads the arguments of a call; `arch` is what is built for where they do not say.
    pub(crate) fn from_call(args: &BTreeMap<String, Value>, arch: &str) -> Result<Self, ArgError> {
        let reader = Reader(args);
        let suite = reader.word("suite")?.ok_or(ArgError {
            key: "suite",
            problem: "is missing: expected a series or series-pocket, such as noble",
        })?;
        let series = reader
            .word("series")?
            .unwrap_or_else(|| series_of(&suite).to_owned());
        match reader.text("image_type")?.as_deref() {
            None | Some("chroot") => {}
            Some(_) => {
                return Err(ArgError {
                    key: "image_type",
                    problem: "is not supported: expected \"chroot\"",
                });
            }
        }
        let archives = reader.list("archives", MAX_TEXT)?;
        if !archives.iter().all(|line| is_archive(line)) {
            return Err(ArgError {
                key: "archives",
                problem: "holds something else than one-line deb or deb-src sources",
            });
        }
        let trusted_keys = reader.list("trusted_keys", MAX_KEY)?;
        if !trusted_keys
            .iter()
            .all(|key| STANDARD.decode(strip_blanks(key)).is_ok())
        {
            return Err(ArgError {
                key: "trusted_keys",
                problem: "is not base64",
            });
        }
        Ok(Self {
            series,
            suite,
            arch_tag: reader.architecture()?.unwrap_or_else(|| arch.to_owned()),
            arch_indep: reader.flag("arch_indep")?,
            archive_purpose: reader.text("archive_purpose")?.unwrap_or_default(),
            component: reader.text("ogrecomponent")?.unwrap_or_default(),
            archives,
            trusted_keys,
            debug_symbols: reader.flag("build_debug_symbols")?,
            build_url: reader.text("build_url")?,
        })
    }

    /// The trusted keys' bytes.
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        self.trusted_keys
            .iter()
            .filter_map(|key| STANDARD.decode(strip_blanks(key)).ok())
            .collect()
    }
}

/// The series of a suite: less its pocket's suffix.
fn series_of(suite: &str) -> &str {
    [
        "-release",
        "-security",
        "-updates",
        "-proposed",
        "-backports",
    ]
    .iter()
    .find_map(|pocket| suite.strip_suffix(pocket))
    .unwrap_or(suite)
}

/// One line, `deb` or `deb-src`, and at least an address and a suite behind it.
fn is_archive(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    matches!(words.next(), Some("deb" | "deb-src"))
        && words.count() >= 2
        && !line.chars().any(char::is_control)
}

/// Base64 as some writers break it into lines.
fn strip_blanks(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_whitespace()).collect()
}

struct Reader<'a>(&'a BTreeMap<String, Value>);

impl Reader<'_> {
    /// A text of one line.
    fn text(&self, key: &'static str) -> Result<Option<String>, ArgError> {
        match self.0.get(key) {
            None | Some(Value::Nil) => Ok(None),
            Some(Value::String(text))
                if text.len() <= MAX_TEXT && !text.chars().any(char::is_control) =>
            {
                Ok(Some(text.clone()))
            }
            Some(Value::String(_)) => Err(ArgError {
                key,
                problem: "is too long or holds control characters",
            }),
            Some(_) => Err(ArgError {
                key,
                problem: "is not a string",
            }),
        }
    }

    /// Debian's name of the architecture. Since 2026 it is `abi_tag`; `isa_tag` is the variant of it that the builder
    /// has, which nothing here needs, and `arch_tag`, which may be either, is what there was before.
    fn architecture(&self) -> Result<Option<String>, ArgError> {
        self.word("isa_tag")?;
        match self.word("abi_tag")? {
            Some(abi) => Ok(Some(abi)),
            None => self.word("arch_tag"),
        }
    }

    /// A text that may go on a command line: never an option, never a path.
    fn word(&self, key: &'static str) -> Result<Option<String>, ArgError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        let first = text
            .chars()
            .next()
            .is_some_and(|c| c.is_ascii_alphanumeric());
        let plain = text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-.+~".contains(c));
        if first && plain && text.len() <= 100 {
            Ok(Some(text))
        } else {
            Err(ArgError {
                key,
                problem: "is not a plain name of letters, digits, - . + ~",
            })
        }
    }

    fn flag(&self, key: &'static str) -> Result<bool, ArgError> {
        match self.0.get(key) {
            None | Some(Value::Nil) => Ok(false),
            Some(Value::Boolean(flag)) => Ok(*flag),
            Some(Value::Integer(number)) => Ok(*number != 0),
            Some(_) => Err(ArgError {
                key,
                problem: "is not a boolean",
            }),
        }
    }

    fn list(&self, key: &'static str, longest: usize) -> Result<Vec<String>, ArgError> {
        let items = match self.0.get(key) {
            None | Some(Value::Nil) => return Ok(Vec::new()),
            Some(Value::Array(items)) if items.len() <= MAX_ITEMS => items,
            Some(Value::Array(_)) => {
                return Err(ArgError {
                    key,
                    problem: "has too many items",
                });
            }
            Some(_) => {
                return Err(ArgError {
                    key,
                    problem: "is not an array",
                });
            }
        };
        items
            .iter()
            .map(|item| match item {
                Value::String(text) if text.len() <= longest => Ok(text.clone()),
                // Python 2's managers sent keys as binary.
                Value::Base64(bytes) if bytes.len() <= longest => String::from_utf8(bytes.clone())
                    .map_err(|_| ArgError {
                        key,
                        problem: "holds something else than text",
                    }),
                Value::String(_) | Value::Base64(_) => Err(ArgError {
                    key,
                    problem: "has an item that is too long",
                }),
                _ => Err(ArgError {
                    key,
                    problem: "holds something else than strings",
                }),
            })
            .collect()
    }
}

/// XML-RPC values as JSON, for `PANDA_ARGS`. Times and binary values become strings.
pub(crate) fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Integer(number) => (*number).into(),
        Value::Long(number) => (*number).into(),
        Value::Boolean(flag) => (*flag).into(),
        Value::String(text) => text.as_str().into(),
        Value::Double(number) => (*number).into(),
        Value::DateTime(time) => time.to_string().into(),
        Value::Base64(bytes) => STANDARD.encode(bytes).into(),
        Value::Struct(members) => members
            .iter()
            .map(|(key, value)| (key.clone(), to_json(value)))
            .collect(),
        Value::Array(items) => items.iter().map(to_json).collect(),
        _ => serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(pairs: &[(&str, Value)]) -> BTreeMap<String, Value> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect()
    }

    fn text(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn a_2011_call_without_series_takes_it_from_the_suite() {
        for (suite, series) in [
            ("lucid", "lucid"),
            ("lucid-proposed", "lucid"),
            ("lucid-security", "lucid"),
        ] {
            let read = BuildArgs::from_call(&args(&[("suite", text(suite))]), "armhf").unwrap();
            assert_eq!((read.series.as_str(), read.suite.as_str()), (series, suite));
            assert_eq!(read.arch_tag, "armhf");
        }
    }

    #[test]
    fn the_architecture_is_the_abi_tag_where_there_is_one() {
        for (tags, expected) in [
            (&[("arch_tag", "armhf")][..], "armhf"),
            (&[("abi_tag", "arm64"), ("isa_tag", "arm64")], "arm64"),
            (
                &[
                    ("arch_tag", "amd64v3"),
                    ("abi_tag", "amd64"),
                    ("isa_tag", "amd64v3"),
                ],
                "amd64",
            ),
            (&[("isa_tag", "armhf")], "i386"),
        ] {
            let mut call = args(&[("suite", text("noble"))]);
            call.extend(tags.iter().map(|(key, tag)| ((*key).to_owned(), text(tag))));
            let read = BuildArgs::from_call(&call, "i386").unwrap();
            assert_eq!(read.arch_tag, expected);
        }
        let odd = args(&[("suite", text("noble")), ("isa_tag", text("../x"))]);
        assert!(BuildArgs::from_call(&odd, "armhf").is_err());
    }

    #[test]
    fn a_call_without_suite_is_refused() {
        let error = BuildArgs::from_call(&args(&[]), "armhf")
            .unwrap_err()
            .to_string();
        assert!(error.contains("suite is missing"), "{error}");
    }

    #[test]
    fn names_that_would_be_options_or_paths_are_refused() {
        for bad in ["", "--verbose", "../x", "a b", "a\nb", "a/b", "a;b"] {
            assert!(
                BuildArgs::from_call(&args(&[("suite", text(bad))]), "armhf").is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn archive_lines_are_one_line_each_and_errors_do_not_quote_them() {
        let secret = "deb http://user:s3cret@ppa.example/ noble main\nAPT::x";
        for bad in [secret, "rm -rf /", "deb", "deb http://x/"] {
            let call = args(&[
                ("suite", text("noble")),
                ("archives", Value::Array(vec![text(bad)])),
            ]);
            let error = BuildArgs::from_call(&call, "armhf")
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("archives") && !error.contains("s3cret"),
                "{error}"
            );
        }
    }

    #[test]
    fn wrong_types_are_named() {
        for (key, value) in [
            ("arch_indep", text("yes")),
            ("archives", text("deb http://x/ noble main")),
            ("trusted_keys", Value::Array(vec![text("?")])),
            ("image_type", text("lxd")),
            ("build_url", Value::Integer(1)),
        ] {
            let call = args(&[("suite", text("noble")), (key, value)]);
            let error = BuildArgs::from_call(&call, "armhf")
                .unwrap_err()
                .to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn arguments_become_json() {
        let value = Value::Struct(args(&[
            (
                "a",
                Value::Array(vec![Value::Integer(1), Value::Boolean(true), Value::Nil]),
            ),
            ("b", text("x\"y")),
        ]));
        assert_eq!(
            to_json(&value).to_string(),
            r#"{"a":[1,true,null],"b":"x\"y"}"#
        );
    }
}
