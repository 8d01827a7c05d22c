//! Functions that were never declared and whose result is used as a pointer. The compiler takes such a
//! result for an `int`, so that on a 64-bit machine half of the pointer is lost: the program builds, and
//! crashes. Builders read their log for it and let the build fail.
//!
//! ```text
//! t.c:3:13: warning: implicit declaration of function 'find' [-Wimplicit-function-declaration]
//! t.c:3:13: warning: initialization of 'char *' from 'int' makes pointer from integer without a cast
//! ^ the same file and line
//! ```
//! Columns differ (of an assignment it is that of the `=`), and several compilers may write at once, so the
//! last places are remembered.

use std::collections::VecDeque;

/// How many places of undeclared functions are remembered.
const PLACES: usize = 64;
/// How many findings are told.
const MAX_FOUND: usize = 100;

const WARNING: &str = ": warning: ";
/// What the compilers say of a function that was not declared, before its name in quotes.
const UNDECLARED: &[&str] = &[
    "implicit declaration of function ",
    "call to undeclared function ",
];
/// What they say of an integer that becomes a pointer.
const CONVERTED: &[&str] = &[
    "makes pointer from integer without a cast",
    "cast to pointer from integer of different size",
    "incompatible integer to pointer conversion",
    "from smaller integer type 'int'",
];

/// Reads a log by its lines.
#[derive(Debug, Default)]
pub(crate) struct PointerScan {
    undeclared: VecDeque<(String, String)>,
    found: Vec<String>,
}

impl PointerScan {
    /// The next line.
    pub(crate) fn line(&mut self, line: &str) {
        let Some((place, message)) = line.split_once(WARNING) else {
            return;
        };
        let Some(place) = file_and_line(place) else {
            return;
        };
        let name = UNDECLARED
            .iter()
            .find_map(|known| message.strip_prefix(known));
        if let Some(name) = name.and_then(quoted) {
            if self.undeclared.len() == PLACES {
                self.undeclared.pop_front();
            }
            self.undeclared.push_back((place, name.to_owned()));
        } else if CONVERTED.iter().any(|known| message.contains(known))
            && let Some((_, name)) = self
                .undeclared
                .iter()
                .rev()
                .find(|(known, _)| *known == place)
            && self.found.len() < MAX_FOUND
        {
            let finding = format!("Function `{name}' implicitly converted to pointer at {place}");
            if self.found.last() != Some(&finding) {
                self.found.push(finding);
            }
        }
    }

    /// What was found, a sentence each.
    pub(crate) fn found(&self) -> &[String] {
        &self.found
    }
}

/// `FILE:LINE` or `FILE:LINE:COLUMN`, as the first of them.
fn file_and_line(place: &str) -> Option<String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (rest, last) = place.rsplit_once(':')?;
    if !is_number(last) {
        return None;
    }
    Some(match rest.rsplit_once(':') {
        Some((_, line)) if is_number(line) => rest.to_owned(),
        _ => place.to_owned(),
    })
}

/// The name in quotes that a text begins with: whatever quotes this compiler and this locale have.
fn quoted(text: &str) -> Option<&str> {
    let quotes = ['\'', '`', '"', '‘', '’'];
    let inner = text.strip_prefix(quotes)?;
    inner.split(quotes).next().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: &[&str]) -> Vec<String> {
        let mut scan = PointerScan::default();
        lines.iter().for_each(|line| scan.line(line));
        scan.found().to_vec()
    }

    #[test]
    fn a_converted_result_of_an_undeclared_function_is_found_whatever_the_compiler() {
        for (undeclared, converted) in [
            (
                "t.c:3:13: warning: implicit declaration of function ‘find’ [-Wimplicit-function-declaration]",
                "t.c:3:11: warning: initialization of ‘char *’ from ‘int’ makes pointer from integer without a cast [-Wint-conversion]",
            ),
            (
                "t.c:3: warning: implicit declaration of function `find'",
                "t.c:3: warning: return makes pointer from integer without a cast",
            ),
            (
                "t.c:3:5: warning: implicit declaration of function 'find'; did you mean 'bind'? [-Wimplicit-function-declaration]",
                "t.c:3:9: warning: passing argument 1 of 'puts' makes pointer from integer without a cast [-Wint-conversion]",
            ),
            (
                "t.c:3:5: warning: implicit declaration of function ‘find’",
                "t.c:3:4: warning: cast to pointer from integer of different size [-Wint-to-pointer-cast]",
            ),
            (
                "t.c:3:9: warning: call to undeclared function 'find'; ISO C99 and later do not support implicit function declarations",
                "t.c:3:9: warning: incompatible integer to pointer conversion initializing 'char *' with an expression of type 'int'",
            ),
        ] {
            let wanted = "Function `find' implicitly converted to pointer at t.c:3";
            let note = "      |             ^~~~";
            assert_eq!(
                found(&["t.c: In function ‘main’:", undeclared, note, converted]),
                [wanted]
            );
            assert!(found(&[undeclared]).is_empty() && found(&[converted]).is_empty());
            assert!(found(&[undeclared, &converted.replace(":3", ":4")]).is_empty());
            assert!(found(&[undeclared, &converted.replace("t.c", "u.c")]).is_empty());
        }
    }

    #[test]
    fn compilers_that_write_at_once_and_odd_lines_do_not_hide_it() {
        let lines = [
            "a:b.c:7:1: warning: implicit declaration of function 'f'",
            "c.c:7:1: warning: implicit declaration of function 'g'",
            "no place: warning: implicit declaration of function 'h'",
            "a:b.c:7:9: warning: assignment to 'void *' from 'int' makes pointer from integer without a cast",
            ": warning: implicit declaration of function",
        ];
        assert_eq!(
            found(&lines),
            ["Function `f' implicitly converted to pointer at a:b.c:7"]
        );
        let errors = lines.map(|line| line.replace("warning", "error"));
        assert!(
            found(&errors.each_ref().map(String::as_str)).is_empty(),
            "the compiler fails by itself"
        );
    }
}
