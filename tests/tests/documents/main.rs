//! Every command that README and `docs/` show is one that the programs and scripts take, and one that is run: here, or
//! by a test, gate or script that is named here ([`runs`]).

mod foreign;
mod runs;

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use panda_tests::documents::{Shown, commands};
use panda_tests::programs::{program, root, run_ok};

/// Commands of other makes that documents may show.
const OTHERS: [&str; 6] = ["cargo", "adduser", "install", "systemctl", "cp", "curl"];

#[test]
fn documents_show_only_commands_that_work() -> Result<()> {
    let shown = commands()?;
    ensure!(
        shown.len() >= 5,
        "only {} commands were found in the documents",
        shown.len()
    );
    let mut helps = BTreeMap::new();
    for command in &shown {
        check(command, &mut helps).with_context(|| {
            format!(
                "{}:{}: {}",
                command.document.display(),
                command.line,
                command.words.join(" ")
            )
        })?;
    }
    Ok(())
}

/// A command without `sudo` and the settings (NAME=VALUE) before it.
fn bare(shown: &Shown) -> Vec<&str> {
    shown
        .words
        .iter()
        .map(String::as_str)
        .skip_while(|word| {
            *word == "sudo"
                || word
                    .split_once('=')
                    .is_some_and(|(name, _)| !name.starts_with('-'))
        })
        .collect()
}

fn check(shown: &Shown, helps: &mut BTreeMap<Vec<String>, String>) -> Result<()> {
    let words = bare(shown);
    let name = *words.first().context("an empty command")?;
    if let Some(script) = name
        .strip_prefix("scripts/")
        .or_else(|| name.strip_prefix("./scripts/"))
    {
        ensure!(
            root().join("scripts").join(script).is_file(),
            "there is no such script"
        );
        return Ok(());
    }
    if name == "protocol/fuzz/run" {
        ensure!(root().join(name).is_file(), "there is no such script");
        return Ok(());
    }
    let file = name.rsplit('/').next().unwrap_or(name);
    if !["pandabuildd", "panda-twin", "panda-agent"].contains(&file) {
        ensure!(
            OTHERS.contains(&file),
            "not a command of this project, nor one that documents may show"
        );
        return Ok(());
    }
    // Subcommands are the plain words before the first option; whatever follows is an argument.
    let plain = words
        .iter()
        .skip(1)
        .take_while(|word| !word.starts_with('-'));
    let mut subcommand: Vec<String> = Vec::new();
    for word in plain {
        let mut longer = subcommand.clone();
        longer.push((*word).to_owned());
        if help(file, &longer, helps).is_err() {
            break;
        }
        subcommand = longer;
    }
    if subcommand.is_empty() && words.len() > 1 && !words[1].starts_with('-') {
        bail!("{file} has no subcommand {}", words[1]);
    }
    let help = help(file, &subcommand, helps)?;
    for option in words
        .iter()
        .filter(|word| word.starts_with("--") && word.len() > 2)
    {
        let option = option.split('=').next().unwrap_or(option);
        ensure!(
            help.split(|c: char| c.is_whitespace() || "[]<>=,.`|".contains(c))
                .any(|word| word == option),
            "{file} {} has no option {option}",
            subcommand.join(" ")
        );
    }
    Ok(())
}

/// The help text of a subcommand; an error where there is none of that name.
fn help(
    file: &str,
    subcommand: &[String],
    helps: &mut BTreeMap<Vec<String>, String>,
) -> Result<String> {
    let key: Vec<String> = std::iter::once(file.to_owned())
        .chain(subcommand.iter().cloned())
        .collect();
    if let Some(known) = helps.get(&key) {
        return Ok(known.clone());
    }
    // `PROGRAM SUBCOMMAND --help` says which subcommand it is for; clap answers for the parent where an argument
    // merely follows.
    let text = run_ok(Command::new(program(file)?).args(subcommand).arg("--help"))?;
    let usage = format!("{} {}", file, subcommand.join(" "));
    ensure!(text.contains(usage.trim_end()), "no such subcommand");
    helps.insert(key, text.clone());
    Ok(text)
}
