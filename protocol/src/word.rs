//! Words that name something to another program or machine: a suite, an architecture, a purpose. None of
//! them can be an option, a path or two words. They come from a command line and are no secrets, so that
//! errors quote them.

/// A word that no program is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {word:?}: expected letters, digits and - . _ +")]
pub struct NotAWord {
    what: String,
    word: String,
}

/// Checks a word that becomes an argument of another program; `what` is how an error names it, such as
/// the option that it was given with.
///
/// # Errors
/// [`NotAWord`].
pub fn check_word(what: &str, word: &str) -> Result<(), NotAWord> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '+');
    if word.is_empty() || word.starts_with('-') || !word.chars().all(plain) {
        return Err(NotAWord {
            what: what.to_owned(),
            word: word.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_would_be_options_are_refused() {
        for word in ["", "--hook", "a b", "a;b", "a/b"] {
            assert!(check_word("--suite", word).is_err(), "{word:?}");
        }
        check_word("--suite", "bookworm-updates").unwrap();
    }
}
