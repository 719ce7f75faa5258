//! PTX text to tokens. Comments, inline-assembly markers among them, are dropped.

use crate::error::PtxError;

/// A piece of PTX.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// An opcode, directive, register, symbol or number: `add.rn.f32`, `.reg`, `%r1`, `$L__BB0_1`, `0f3F800000`.
    Word(String),
    /// Anything else: `{ } [ ] ( ) , ; : + - @ ! | < > =`.
    Mark(char),
    /// Text in quotes.
    Quoted,
}

/// A token and its line, from 1.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) token: Token,
    pub(crate) line: u32,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

/// Splits the text.
pub(crate) fn tokens(text: &str) -> Result<Vec<Located>, PtxError> {
    let mut found = Vec::new();
    let mut in_comment = false;
    for (number, source) in text.lines().enumerate() {
        let line = number as u32 + 1;
        let mut rest = source;
        while !rest.is_empty() {
            if in_comment {
                let Some(end) = rest.find("*/") else { break };
                (rest, in_comment) = (&rest[end + 2..], false);
                continue;
            }
            let c = rest.chars().next().unwrap_or(' ');
            if rest.starts_with("//") {
                break;
            } else if rest.starts_with("/*") {
                (rest, in_comment) = (&rest[2..], true);
            } else if c.is_whitespace() {
                rest = &rest[c.len_utf8()..];
            } else if c == '"' {
                let Some(end) = rest[1..].find('"') else {
                    return Err(PtxError::new(line, "a text without its closing quote", "is the file cut off?"));
                };
                found.push(Located { token: Token::Quoted, line });
                rest = &rest[end + 2..];
            } else if is_word(c) {
                let end = word_end(rest);
                found.push(Located { token: Token::Word(rest[..end].into()), line });
                rest = &rest[end..];
            } else if c.is_ascii() {
                found.push(Located { token: Token::Mark(c), line });
                rest = &rest[1..];
            } else {
                return Err(PtxError::new(line, format!("the character {c:?}"), "PTX is ASCII"));
            }
        }
    }
    Ok(found)
}

/// The length of the word that `text` starts with; `::` belongs to words (`L2::128B`).
fn word_end(text: &str) -> usize {
    let mut end = 0;
    loop {
        end += text[end..].find(|c| !is_word(c)).unwrap_or(text.len() - end);
        let qualified = text[end..].starts_with("::") && text[end + 2..].starts_with(is_word);
        if !qualified {
            return end;
        }
        end += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_marks_and_comments() {
        let words: Vec<String> = tokens("@!%p1 bra $L_2; // no\n/* x\n y */ ld.L2::128B [%rd1+-16];")
            .unwrap()
            .into_iter()
            .map(|at| match at.token {
                Token::Word(word) => word,
                Token::Mark(mark) => mark.into(),
                Token::Quoted => "\"".into(),
            })
            .collect();
        let expected = ["@", "!", "%p1", "bra", "$L_2", ";", "ld.L2::128B", "[", "%rd1", "+", "-", "16", "]", ";"];
        assert_eq!(words, expected);
    }

    #[test]
    fn lines_count_from_one() {
        assert_eq!(tokens("\n\nret;").unwrap()[0].line, 3);
    }

    #[test]
    fn an_open_quote_is_an_error() {
        assert_eq!(tokens("ret;\n\"abc").unwrap_err().line, 2);
    }
}
