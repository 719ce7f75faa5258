//! Tokens to [`Source`].

use crate::error::PtxError;
use crate::lexer::{Located, Token, tokens};
use crate::syntax::{EntrySource, Operand, RegisterGroup, Source, Space, Statement, Variable};

/// Parses a module.
pub(crate) fn parse(text: &str) -> Result<Source, PtxError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let mut source = Source::default();
    while let Some(token) = parser.peek() {
        match token {
            Token::Word(word) => match word.as_str() {
                ".version" | ".target" | ".address_size" | ".file" => parser.skip_line(),
                ".visible" | ".extern" | ".weak" | ".common" => parser.at += 1,
                ".entry" => source.entries.push(parser.entry()?),
                ".func" => parser.skip_function(),
                ".global" | ".const" | ".shared" => source.variables.push(parser.variable()?),
                ".section" => parser.skip_function(),
                _ => return Err(parser.unexpected("an entry, a function or a variable")),
            },
            _ => return Err(parser.unexpected("a directive")),
        }
    }
    Ok(source)
}

struct Parser<'a> {
    tokens: &'a [Located],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|at| &at.token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |at| at.line)
    }

    fn unexpected(&self, expected: &str) -> PtxError {
        let got = match self.peek() {
            Some(Token::Word(word)) => format!("{word:?}"),
            Some(Token::Mark(mark)) => format!("{mark:?}"),
            Some(Token::Quoted) => "a text".into(),
            None => "the end of the file".into(),
        };
        PtxError::new(self.line(), got, format!("expected {expected}"))
    }

    /// Consumes `mark` if it comes next.
    fn take(&mut self, mark: char) -> bool {
        let there = self.peek() == Some(&Token::Mark(mark));
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, mark: char) -> Result<(), PtxError> {
        if self.take(mark) { Ok(()) } else { Err(self.unexpected(&format!("{mark:?}"))) }
    }

    fn word(&mut self, expected: &str) -> Result<String, PtxError> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    /// Consumes `word` if it comes next.
    fn take_word(&mut self, word: &str) -> bool {
        let there = matches!(self.peek(), Some(Token::Word(found)) if found == word);
        self.at += usize::from(there);
        there
    }

    /// A number, possibly negative, sign-extended.
    fn number(&mut self) -> Result<u64, PtxError> {
        let negative = self.take('-');
        let line = self.line();
        let word = self.word("a number")?;
        let value = literal(&word).ok_or_else(|| PtxError::new(line, format!("{word:?}"), "expected a number"))?;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.at < self.tokens.len() && self.line() == line {
            self.at += 1;
        }
    }

    /// Skips to after the closing brace of a body, or after the semicolon of a declaration.
    fn skip_function(&mut self) {
        let mut depth = 0;
        while let Some(token) = self.peek() {
            let token = token.clone();
            self.at += 1;
            match token {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => {
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                Token::Mark(';') if depth == 0 => return,
                _ => {}
            }
        }
    }

    /// `.shared .align 16 .b8 name[64] = {..};`, the space first. Also a parameter, which has no semicolon.
    fn declaration(&mut self) -> Result<Variable, PtxError> {
        let line = self.line();
        let directive = self.word("a state space")?;
        let space =
            Space::named(directive.trim_start_matches('.')).ok_or_else(|| self.unexpected("a state space before"))?;
        let (mut align, mut element) = (None, None);
        let name = loop {
            let word = self.word("a type or a name")?;
            match word.as_str() {
                ".align" => align = Some(self.number()?),
                ".ptr" | ".global" | ".shared" | ".const" | ".local" => {}
                _ if word.starts_with('.') => {
                    element = Some(type_bytes(&word[1..]).ok_or_else(|| {
                        PtxError::new(line, format!("the type {word:?}"), "expected .b8 to .b64, .u, .s or .f")
                    })?);
                }
                _ => break word,
            }
        };
        let element = element.ok_or_else(|| PtxError::new(line, format!("{name:?} without a type"), "add one"))?;
        let mut count = Some(1);
        while self.take('[') {
            count = if self.take(']') {
                None
            } else {
                let extent = self.number()?;
                self.expect(']')?;
                count.and_then(|count: u64| count.checked_mul(extent))
            };
        }
        let bytes = count.and_then(|count| count.checked_mul(element));
        // The alignment after `.ptr` is that of what a parameter points to.
        let align = if space == Space::Param { element } else { align.unwrap_or(element) };
        let mut initial = Vec::new();
        if self.take('=') {
            self.initial(element as usize, &mut initial)?;
        }
        if !align.is_power_of_two() || bytes.is_some_and(|bytes| (initial.len() as u64) > bytes) {
            let got = format!("{name:?} of {bytes:?} bytes, aligned to {align}, with {} given", initial.len());
            return Err(PtxError::new(line, got, "an alignment is a power of two, and no more is given than fits"));
        }
        Ok(Variable { name, space, align, bytes, initial, line })
    }

    fn initial(&mut self, element: usize, bytes: &mut Vec<u8>) -> Result<(), PtxError> {
        if !self.take('{') {
            let value = self.number()?;
            bytes.extend(&value.to_le_bytes()[..element]);
            return Ok(());
        }
        while !self.take('}') {
            self.initial(element, bytes)?;
            if !self.take(',') && self.peek() != Some(&Token::Mark('}')) {
                return Err(self.unexpected("',' or '}'"));
            }
        }
        Ok(())
    }

    fn variable(&mut self) -> Result<Variable, PtxError> {
        let variable = self.declaration()?;
        self.expect(';')?;
        Ok(variable)
    }

    fn entry(&mut self) -> Result<EntrySource, PtxError> {
        self.at += 1;
        let mut entry = EntrySource {
            name: self.word("the entry's name")?,
            params: Vec::new(),
            registers: Vec::new(),
            variables: Vec::new(),
            statements: Vec::new(),
            labels: Vec::new(),
            tables: Vec::new(),
        };
        if self.take('(') && !self.take(')') {
            loop {
                entry.params.push(self.declaration()?);
                if !self.take(',') {
                    break;
                }
            }
            self.expect(')')?;
        }
        // Performance directives: `.maxntid 256, 1, 1`.
        while !self.take('{') {
            if self.at == self.tokens.len() {
                return Err(self.unexpected("the entry's body"));
            }
            self.at += 1;
        }
        let mut depth = 1;
        while depth > 0 {
            match self.peek() {
                Some(Token::Mark('{')) => depth += 1,
                Some(Token::Mark('}')) => depth -= 1,
                Some(Token::Mark(';')) => {}
                Some(_) => {
                    self.body_item(&mut entry)?;
                    continue;
                }
                None => return Err(self.unexpected("'}'")),
            }
            self.at += 1;
        }
        Ok(entry)
    }

    /// A declaration, a label or an instruction.
    fn body_item(&mut self, entry: &mut EntrySource) -> Result<(), PtxError> {
        let Some(Token::Word(word)) = self.peek().cloned() else {
            entry.statements.push(self.statement()?);
            return Ok(());
        };
        if self.tokens.get(self.at + 1).is_some_and(|next| next.token == Token::Mark(':')) {
            self.at += 2;
            if self.take_word(".branchtargets") {
                let mut targets = vec![self.word("a label")?];
                while self.take(',') {
                    targets.push(self.word("a label")?);
                }
                self.expect(';')?;
                entry.tables.push((word, targets));
            } else {
                entry.labels.push((word, entry.statements.len()));
            }
            return Ok(());
        }
        match word.as_str() {
            ".reg" => self.registers(&mut entry.registers),
            ".shared" | ".local" | ".global" | ".const" => {
                entry.variables.push(self.variable()?);
                Ok(())
            }
            ".loc" | ".pragma" | ".file" => {
                self.skip_line();
                Ok(())
            }
            _ => {
                entry.statements.push(self.statement()?);
                Ok(())
            }
        }
    }

    fn registers(&mut self, groups: &mut Vec<RegisterGroup>) -> Result<(), PtxError> {
        self.at += 1;
        self.word("a register type")?;
        loop {
            let prefix = self.word("a register")?;
            let count = if self.take('<') {
                let count = self.number()? as u32;
                self.expect('>')?;
                Some(count)
            } else {
                None
            };
            groups.push(RegisterGroup { prefix, count });
            if !self.take(',') {
                return self.expect(';');
            }
        }
    }

    fn statement(&mut self) -> Result<Statement, PtxError> {
        let line = self.line();
        let guard = if self.take('@') {
            let negated = self.take('!');
            Some((self.word("a predicate")?, negated))
        } else {
            None
        };
        let opcode = self.word("an opcode")?;
        let mut operands = Vec::new();
        while !self.take(';') {
            operands.push(self.operand()?);
            if !self.take(',') && self.peek() != Some(&Token::Mark(';')) {
                return Err(self.unexpected("',' or ';'"));
            }
        }
        Ok(Statement { guard, opcode, operands, line })
    }

    fn operand(&mut self) -> Result<Operand, PtxError> {
        if self.take('{') {
            let mut elements = vec![self.operand()?];
            while self.take(',') {
                elements.push(self.operand()?);
            }
            self.expect('}')?;
            return Ok(Operand::Vector(elements));
        }
        if self.take('[') {
            let base = self.plain()?;
            let offset = self.offset()?;
            self.expect(']')?;
            return Ok(Operand::Address(Box::new(base), offset));
        }
        let first = self.plain()?;
        if self.take('|') {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.plain()?)));
        }
        Ok(match first {
            Operand::Symbol(name, _) => Operand::Symbol(name, self.offset()?),
            other => other,
        })
    }

    /// `+ 16`, `+-16` or nothing.
    fn offset(&mut self) -> Result<i64, PtxError> {
        if self.take('+') || self.peek() == Some(&Token::Mark('-')) { Ok(self.number()? as i64) } else { Ok(0) }
    }

    /// A register, number or symbol.
    fn plain(&mut self) -> Result<Operand, PtxError> {
        match self.peek() {
            Some(Token::Word(word)) if word.starts_with('%') || word == "_" => {
                Ok(Operand::Register(self.word("a register")?))
            }
            Some(Token::Word(word)) if !word.starts_with(|c: char| c.is_ascii_digit()) => {
                Ok(Operand::Symbol(self.word("a symbol")?, 0))
            }
            Some(Token::Word(_) | Token::Mark('-')) => Ok(Operand::Immediate(self.number()?)),
            _ => Err(self.unexpected("an operand")),
        }
    }
}

/// The size of a value of a type such as `u32`; a predicate has none.
pub(crate) fn type_bytes(name: &str) -> Option<u64> {
    let bits = name.strip_prefix(['b', 'u', 's', 'f'])?;
    Some(match bits {
        "8" => 1,
        "16" => 2,
        "32" => 4,
        "64" => 8,
        _ => return None,
    })
}

/// A number: decimal, `0x`, `0b`, octal, or the bits of a float (`0f`, `0d`).
fn literal(word: &str) -> Option<u64> {
    let radix = |digits: &str, radix| u64::from_str_radix(digits.trim_end_matches('U'), radix).ok();
    match word.get(..2) {
        Some("0x" | "0X") => radix(&word[2..], 16),
        Some("0b" | "0B") => radix(&word[2..], 2),
        Some("0f" | "0F") if word.len() == 10 => radix(&word[2..], 16),
        Some("0d" | "0D") if word.len() == 18 => radix(&word[2..], 16),
        Some(_) if word.starts_with('0') => radix(&word[1..], 8),
        _ => radix(word, 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = ".version 7.8\n.target sm_80\n.address_size 64\n";

    #[test]
    fn a_module_with_everything() {
        let source = parse(&format!(
            "{HEAD}.extern .shared .align 16 .b8 dynamic[];
            .global .align 8 .b8 table[4] = {{1, 2, 0x3}};
            .visible .func f() {{ .reg .b32 %r<2>; {{ ret; }} }}
            .visible .entry k(.param .u64 .ptr .align 1 k_0, .param .f32 k_1) .maxntid 32, 1, 1
            {{
                .reg .pred %p<2>;
                .reg .b64 %rd<5>, %extra;
                // begin inline asm
                .shared .align 16 .b8 tile[64];mov.u64 %rd1, tile;
                // end inline asm
                @!%p1 ld.global.v2.b32 {{%r1, _}}, [%rd1+-8];
            $L: shfl.sync.idx.b32 %r1|%p1, %r2, 3, 31, -1;
            }}"
        ))
        .unwrap();
        assert_eq!(source.variables[0].bytes, None);
        assert_eq!(source.variables[1].initial, [1, 2, 3]);
        let [entry] = &source.entries[..] else { panic!("one entry") };
        assert_eq!(entry.params.iter().map(|p| p.bytes).collect::<Vec<_>>(), [Some(8), Some(4)]);
        assert_eq!(entry.variables[0].bytes, Some(64));
        assert_eq!(entry.labels, [("$L".to_string(), 2)]);
        assert_eq!(entry.statements[1].guard, Some(("%p1".into(), true)));
        let address = Operand::Address(Box::new(Operand::Register("%rd1".into())), -8);
        assert_eq!(entry.statements[1].operands[1], address);
        assert_eq!(entry.statements[2].operands[4], Operand::Immediate(u64::MAX));
    }

    #[test]
    fn numbers() {
        assert_eq!(literal("0f3F800000"), Some(0x3f80_0000));
        assert_eq!(literal("0d3FF0000000000000"), Some(1.0f64.to_bits()));
        assert_eq!(literal("0xffU"), Some(255));
        assert_eq!(literal("010"), Some(8));
        assert_eq!(literal("0"), Some(0));
        assert_eq!(literal("12a"), None);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line) in [
            (".entry k() {\n add.s32 %r1, %r2\n}", 3),
            (".entry k() {\n ret;", 2),
            (".global .b8 x[1] = {1, 2};", 1),
            (".entry k() {\n mov.b32 %r1, 12z;\n}", 2),
            ("\nnonsense", 2),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
    }
}
