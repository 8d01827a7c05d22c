//! The commands that README and `docs/` show, so that a test can hold each of them against the programs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::programs::root;

/// One command of a document's fenced `sh` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The document.
    pub document: PathBuf,
    /// The line it begins on, from 1.
    pub line: usize,
    /// Its words; continued lines are joined, quotes removed, comments dropped.
    pub words: Vec<String>,
}

/// Every command of README.md and `docs/*.md`.
///
/// # Errors
/// A document cannot be read.
pub fn commands() -> Result<Vec<Shown>> {
    let mut documents = vec![root().join("README.md")];
    for entry in fs::read_dir(root().join("docs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "md") {
            documents.push(path);
        }
    }
    let mut found = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document).with_context(|| document.display().to_string())?;
        found.extend(commands_of(&text).into_iter().map(|(line, words)| Shown {
            document: document.clone(),
            line,
            words,
        }));
    }
    Ok(found)
}

/// The fenced blocks of one language, in their order, without the indentation of their fence.
#[must_use]
pub fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(&str, usize, String)> = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        let indentation = line.len() - trimmed.len();
        match (open.take(), trimmed.strip_prefix("```")) {
            (None, Some(opened)) => open = Some((opened.trim(), indentation, String::new())),
            (None, None) => {}
            (Some((named, _, block)), Some(_)) => {
                if named == language {
                    found.push(block);
                }
            }
            (Some((named, indentation, mut block)), None) => {
                block += line.get(indentation..).unwrap_or_default();
                block.push('\n');
                open = Some((named, indentation, block));
            }
        }
    }
    found
}

/// The commands of one document: line number and words.
#[must_use]
pub fn commands_of(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut fence = None;
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if let Some(language) = trimmed.strip_prefix("```") {
            fence = if fence.is_none() {
                Some(language.trim().to_owned())
            } else {
                None
            };
            continue;
        }
        if fence.as_deref() != Some("sh") || (open.is_none() && trimmed.is_empty()) {
            continue;
        }
        let (begun, mut command) = open.take().unwrap_or((index + 1, String::new()));
        if let Some(continued) = trimmed.strip_suffix('\\') {
            command.push_str(continued);
            open = Some((begun, command));
            continue;
        }
        command.push_str(trimmed);
        let words = words(&command);
        if !words.is_empty() {
            found.push((begun, words));
        }
    }
    found
}

/// A command's words as the shell would split them, as far as documents need it: quotes and comments.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in command.chars() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t') => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_a_language_are_found_without_their_indentation() {
        let text =
            "```toml\na = 1\n```\n1. x\n\n   ```toml\n   b = 1\n     c\n\n   ```\n```sh\nd\n```\n";
        assert_eq!(blocks(text, "toml"), ["a = 1\n", "b = 1\n  c\n\n"]);
    }

    #[test]
    fn only_sh_blocks_hold_commands_and_continued_lines_are_one() {
        let text = "```toml\nkey = 1\n```\n```sh\n# a comment\nfirst --flag 'two words'  # why\nsecond \\\n  --more\n```\nthird\n";
        assert_eq!(
            commands_of(text),
            vec![
                (
                    6,
                    vec![
                        "first".to_owned(),
                        "--flag".to_owned(),
                        "two words".to_owned()
                    ]
                ),
                (7, vec!["second".to_owned(), "--more".to_owned()]),
            ]
        );
    }
}
