//! The shell blocks of a page: fenced with ```` ```sh ````, or ```` ```sh no-run ```` if a check
//! must not run them.

use anyhow::{Context, bail};

const FENCE: &str = "```";
/// Marks a block that is not run; the text before it states the reason.
const NO_RUN: &str = "no-run";

/// A block of shell commands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The line of its first command.
    pub(super) line: usize,
    pub(super) script: String,
    /// Whether it may be run here.
    pub(super) runs: bool,
}

/// The shell blocks of a page. Fails if one is not closed, or has a mark that is not known.
pub(super) fn of(page: &str) -> anyhow::Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix(FENCE) else { continue };
        let indent = line.len() - line.trim_start().len();
        let mut script = String::new();
        loop {
            let (_, line) = lines.next().with_context(|| format!("line {}: no end", at + 1))?;
            if line.trim() == FENCE {
                break;
            }
            script.push_str(line.get(indent..).unwrap_or_default());
            script.push('\n');
        }
        let mut words = info.split_whitespace();
        if words.next() == Some("sh") {
            let runs = match words.next() {
                None => true,
                Some(NO_RUN) => false,
                Some(other) => bail!("line {}: unknown mark `{other}`", at + 1),
            };
            blocks.push(Block { line: at + 2, script, runs });
        }
    }
    Ok(blocks)
}

/// The events that a script selects from a log, as in `select(.message == "job_dead")`.
pub(super) fn events(script: &str) -> impl Iterator<Item = &str> {
    script.split(".message == \"").skip(1).filter_map(|rest| rest.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shell_blocks_are_found_without_their_indentation() {
        let page = "# Page\n```promql\nup\n```\n1. First\n   ```sh\n   one\n     two\n   ```\n```sh no-run\nthree\n```\n```\nfour\n```\n";
        let (one, three) = ("one\n  two\n".to_owned(), "three\n".to_owned());
        let first = Block { line: 7, script: one, runs: true };
        let second = Block { line: 11, script: three, runs: false };
        assert_eq!(of(page).unwrap(), [first, second]);
    }

    #[test]
    fn an_open_block_or_an_unknown_mark_is_a_mistake() {
        assert!(of("```sh\none\n").unwrap_err().to_string().contains("line 1"));
        assert!(of("text\n```sh norun\none\n```\n").unwrap_err().to_string().contains("`norun`"));
    }

    #[test]
    fn events_are_those_compared_with_the_message() {
        let script =
            r#"logs api | jq 'select(.message == "one" or .message == "two") | .error == "x"'"#;
        assert_eq!(events(script).collect::<Vec<_>>(), ["one", "two"]);
    }
}
