//! What the workspace is made of: the pure crates stay pure, and what is built in has a licence that we may ship.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use panda_tests::programs::{root, run_ok};
use serde_json::Value;

/// What `panda-protocol` and `panda-slot` may be built from: text, bytes and digests. Nothing that
/// opens a socket or a file, reads a clock or draws random numbers (clippy.toml forbids the calls that
/// std and jiff could make). A new name here needs a look at what it does.
const PURE: &str = "
    panda-protocol
    dxr quick-xml memchr base64
    hex sha1 sha2 digest block-buffer crypto-common hybrid-array typenum cfg-if cpufeatures const-oid
    serde serde_core serde_derive serde_json itoa zmij ryu
    toml toml_datetime toml_parser toml_writer serde_spanned winnow indexmap equivalent hashbrown
    thiserror thiserror-impl proc-macro2 quote syn unicode-ident synstructure displaydoc
    jiff jiff-core
    url form_urlencoded percent-encoding idna idna_adapter utf8_iter smallvec stable_deref_trait
    icu_collections icu_locale_core icu_normalizer icu_normalizer_data icu_properties
    icu_properties_data icu_provider litemap potential_utf tinystr utf_types writeable
    yoke yoke-derive zerofrom zerofrom-derive zerotrie zerovec zerovec-derive
";

/// Everything that a package is built from at run time, itself included.
fn built_from(package: &str) -> Result<BTreeSet<String>> {
    let written = run_ok(Command::new(env!("CARGO")).current_dir(root()).args([
        "tree", "--color", "never", "--locked", "-p", package, "-e", "normal", "--prefix", "none",
        "--format", "{p}",
    ]))?;
    // A line is `NAME vVERSION …`; what was listed before comes again.
    Ok(written
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

#[test]
fn the_pure_crates_are_built_from_nothing_that_touches_the_world() -> Result<()> {
    for (name, directory) in [
        ("panda-protocol", "protocol"),
        ("panda-slot", "src/panda-slot"),
    ] {
        let found = built_from(name)?;
        ensure!(
            found.contains("serde"),
            "{name} has lost its dependencies, or they are not seen"
        );
        for dependency in found {
            ensure!(
                dependency == name || PURE.split_whitespace().any(|pure| pure == dependency),
                "{name} is built from {dependency}, which is not on the list of pure crates: see PURE in {}",
                file!()
            );
        }
        let lints = fs::read_to_string(root().join(directory).join("clippy.toml"))
            .with_context(|| format!("{name} has no clippy.toml that forbids what is not pure"))?;
        for forbidden in [
            "std::net::TcpStream",
            "std::fs::File",
            "std::time::SystemTime",
            "std::time::Instant",
        ] {
            ensure!(
                lints.contains(forbidden),
                "{name}'s clippy.toml does not forbid {forbidden}"
            );
        }
    }
    Ok(())
}

#[test]
fn arrows_between_our_crates_go_one_way() -> Result<()> {
    let allowed: [(&str, &[&str]); 10] = [
        ("panda-protocol", &[]),
        ("panda-slot", &["panda-protocol"]),
        ("panda-http", &["panda-protocol"]),
        ("panda-board", &["panda-protocol"]),
        ("panda-tree", &[]),
        ("panda-image", &["panda-protocol", "panda-tree"]),
        ("panda-submit", &["panda-protocol", "panda-http"]),
        (
            "panda-twin",
            &["panda-protocol", "panda-board", "panda-tree"],
        ),
        (
            "panda-agent",
            &["panda-protocol", "panda-http", "panda-tree"],
        ),
        // The daemon starts the twin and the agent as processes, and knows only their sockets.
        (
            "pandabuildd",
            &[
                "panda-protocol",
                "panda-slot",
                "panda-http",
                "panda-board",
                "panda-image",
                "panda-submit",
                "panda-tree",
            ],
        ),
    ];
    for (name, may) in allowed {
        for dependency in built_from(name)?
            .iter()
            .filter(|other| other.starts_with("panda"))
        {
            let dependency = dependency.as_str();
            ensure!(
                dependency == name || may.contains(&dependency),
                "{name} depends on {dependency}"
            );
        }
    }
    Ok(())
}

#[test]
fn everything_built_in_has_an_allowed_licence_and_is_not_banned() -> Result<()> {
    let rules: toml::Table = fs::read_to_string(root().join("deny.toml"))?.parse()?;
    let texts = |table: &str, key: &str| -> Result<Vec<toml::Value>> {
        Ok(rules[table]
            .get(key)
            .and_then(toml::Value::as_array)
            .with_context(|| format!("{table}.{key}"))?
            .clone())
    };
    let allowed: BTreeSet<String> = texts("licenses", "allow")?
        .iter()
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect();
    let banned: BTreeSet<String> = texts("bans", "deny")?
        .iter()
        .filter_map(|rule| rule.get("name")?.as_str().map(str::to_owned))
        .collect();
    ensure!(
        !allowed.is_empty() && !banned.is_empty(),
        "deny.toml has lost its rules"
    );

    let mut built_in = BTreeSet::new();
    for program in ["pandabuildd", "panda-twin", "panda-agent"] {
        built_in.extend(built_from(program)?);
    }
    let written = run_ok(Command::new(env!("CARGO")).current_dir(root()).args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
    ]))?;
    let metadata: Value = serde_json::from_str(&written).context("cargo metadata")?;
    for package in metadata["packages"].as_array().context("packages")? {
        let name = package["name"]
            .as_str()
            .context("a package without a name")?;
        if !built_in.contains(name) {
            continue;
        }
        ensure!(
            !banned.contains(name),
            "{name} is built in, and deny.toml bans it"
        );
        let licence = package["license"]
            .as_str()
            .with_context(|| format!("{name} has no licence"))?;
        ensure!(
            permits(licence, &allowed)?,
            "{name} is licensed {licence}, which deny.toml does not allow"
        );
    }
    Ok(())
}

/// Whether an SPDX expression can be met with the allowed licences alone.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> Result<bool> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let answer = any_of(&mut words, allowed)?;
    ensure!(words.is_empty(), "cannot read the licence {expression:?}");
    Ok(answer)
}

fn any_of(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> Result<bool> {
    let mut answer = all_of(words, allowed)?;
    while words.last() == Some(&"OR") {
        words.pop();
        answer |= all_of(words, allowed)?;
    }
    Ok(answer)
}

fn all_of(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> Result<bool> {
    let mut answer = one(words, allowed)?;
    while words.last() == Some(&"AND") {
        words.pop();
        answer &= one(words, allowed)?;
    }
    Ok(answer)
}

fn one(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> Result<bool> {
    let Some(word) = words.pop() else {
        bail!("a licence expression ends early")
    };
    if word == "(" {
        let answer = any_of(words, allowed)?;
        ensure!(words.pop() == Some(")"), "a parenthesis is not closed");
        return Ok(answer);
    }
    let mut name = word.to_owned();
    if words.last() == Some(&"WITH") {
        words.pop();
        name = format!("{name} WITH {}", words.pop().context("an exception")?);
    }
    Ok(allowed.contains(&name))
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() -> Result<()> {
    let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    for (expression, wanted) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("MIT AND GPL-3.0", false),
        ("GPL-3.0/MIT", true),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("(GPL-3.0 OR MIT) AND Zlib", false),
        ("MIT WITH X-exception", false),
    ] {
        assert_eq!(permits(expression, &allowed)?, wanted, "{expression}");
    }
    Ok(())
}
