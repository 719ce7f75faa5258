//! A reader of PTX as the compiler writes it: kernels, blocks, instructions with what they read and write.

use crate::{Error, Result};
use std::collections::BTreeMap;

/// A kernel.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Declarations inside it: registers, shared memory.
    pub directives: Vec<String>,
    /// Its basic blocks in the order of the file; execution begins at the first and falls from one into the next.
    pub blocks: Vec<Block>,
}

/// Instructions that are executed one after another.
#[derive(Debug, Default)]
pub struct Block {
    /// The label at its head, if it has one.
    pub label: Option<String>,
    /// The instructions; only the last can branch.
    pub instructions: Vec<Instruction>,
}

/// An instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// The line in the file, from 1.
    pub line: usize,
    /// The register that decides whether it is executed, with `true` where it must be false.
    pub guard: Option<(String, bool)>,
    /// The operation with its modifiers: `ld.global.b32`.
    pub opcode: String,
    /// The operands as written.
    pub operands: Vec<String>,
}

impl Instruction {
    /// The parts of the opcode between its points.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.opcode.split('.')
    }

    /// The operation without modifiers.
    pub fn operation(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    /// Whether the opcode has the modifier.
    pub fn has(&self, modifier: &str) -> bool {
        self.parts().skip(1).any(|part| part == modifier)
    }

    /// Whether it ends its block.
    pub fn ends_block(&self) -> bool {
        matches!(self.operation(), "bra" | "brx" | "ret" | "exit" | "trap")
    }

    /// Whether threads wait for each other here, or read each other's registers.
    pub fn is_convergent(&self) -> bool {
        let together =
            ["bar", "barrier", "shfl", "vote", "mma", "wmma", "wgmma", "ldmatrix", "stmatrix", "match", "redux"];
        together.contains(&self.operation()) || self.operation() == "activemask" || self.operation() == "elect"
    }

    /// Whether the first operand is no result.
    fn is_without_result(&self) -> bool {
        let effects =
            ["st", "red", "bra", "brx", "ret", "exit", "trap", "membar", "fence", "prefetch", "cp", "stmatrix"];
        let barrier = matches!(self.operation(), "bar" | "barrier") && !self.has("red");
        barrier || effects.contains(&self.operation())
    }

    /// Registers that it writes.
    pub fn writes(&self) -> Vec<&str> {
        let carry = self.has("cc").then_some(CARRY);
        let results = if self.is_without_result() { None } else { self.operands.first() };
        results.into_iter().flat_map(|o| registers(o)).chain(carry).collect()
    }

    /// Registers that it reads, special registers included; the guard is not among them.
    pub fn reads(&self) -> Vec<&str> {
        let carry = matches!(self.operation(), "addc" | "subc" | "madc").then_some(CARRY);
        self.sources().iter().flat_map(|o| registers(o)).chain(carry).collect()
    }

    /// The operands that are no result.
    pub fn sources(&self) -> &[String] {
        &self.operands[usize::from(!self.is_without_result()).min(self.operands.len())..]
    }
}

/// The carry flag, which PTX leaves unnamed.
const CARRY: &str = "%carry";

/// The registers in an operand: `%r1`, `{%f1, %f2}`, `[%rd1+4]`, `%r1|%p1`.
fn registers(operand: &str) -> impl Iterator<Item = &str> {
    operand
        .split(|c: char| !(c.is_ascii_alphanumeric() || "%_.$".contains(c)))
        .filter(|word| word.starts_with('%') && word.len() > 1)
}

/// The kernels of a PTX text.
///
/// # Errors
/// When a line is not understood, with its number.
pub fn parse(ptx: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut lines = ptx.lines().enumerate();
    while let Some((_, line)) = lines.next() {
        if let Some((_, rest)) = line.split_once(".entry ") {
            let name = rest.split('(').next().unwrap_or_default().trim().to_owned();
            let body: Vec<(usize, &str)> = lines
                .by_ref()
                .skip_while(|(_, line)| !line.starts_with('{'))
                .skip(1)
                .take_while(|(_, line)| !line.starts_with('}'))
                .collect();
            entries.push(parse_body(name, &body)?);
        }
    }
    Ok(entries)
}

fn parse_body(name: String, body: &[(usize, &str)]) -> Result<Entry> {
    let mut directives = Vec::new();
    let mut blocks = vec![Block::default()];
    // Statements end with `;` and may span lines; a label ends with `:`.
    let mut statement = String::new();
    let mut targets: BTreeMap<String, String> = BTreeMap::new();
    for &(index, line) in body {
        let line = line.split("//").next().unwrap_or_default();
        for piece in line.split_inclusive(';') {
            let mut piece = piece.trim();
            while statement.is_empty()
                && let Some((label, rest)) = piece.split_once(':')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || "$_".contains(c))
            {
                blocks.push(Block { label: Some(label.to_owned()), instructions: Vec::new() });
                piece = rest.trim();
            }
            // Braces only scope names here.
            piece = piece.trim_start_matches(['{', '}']).trim_start();
            if piece.is_empty() {
                continue;
            }
            statement += piece;
            let Some(text) = statement.strip_suffix(';').map(str::trim) else {
                statement.push(' ');
                continue;
            };
            if let Some(list) = text.strip_prefix(".branchtargets") {
                // `LABEL: .branchtargets A, B;`: the label names the list; what follows belongs to the block before.
                let list = list.trim().to_owned();
                let label = blocks.pop().and_then(|block| block.label);
                let label =
                    label.ok_or_else(|| Error::new(format!("line {}: a list of targets without name", index + 1)))?;
                targets.insert(label, list);
                blocks.push(Block::default());
            } else if text.starts_with('.') {
                directives.push(text.to_owned());
            } else if !text.is_empty() {
                let instruction = parse_instruction(index + 1, text)?;
                let ends = instruction.ends_block();
                // A new kernel starts with one block, and every label and branch pushes one.
                blocks.last_mut().expect("there is always a block").instructions.push(instruction);
                if ends {
                    blocks.push(Block::default());
                }
            }
            statement.clear();
        }
    }
    if !statement.trim().is_empty() {
        return Err(Error::new(format!("kernel {name} ends inside the statement `{}`", statement.trim())));
    }
    for instruction in blocks.iter_mut().flat_map(|block| &mut block.instructions) {
        if instruction.operation() == "brx"
            && let Some(list) = instruction.operands.get(1).and_then(|label| targets.get(label))
        {
            instruction.operands.truncate(1);
            instruction.operands.extend(list.split(',').map(|label| label.trim().to_owned()));
        }
    }
    blocks.retain(|block| block.label.is_some() || !block.instructions.is_empty());
    Ok(Entry { name, directives, blocks })
}

fn parse_instruction(line: usize, text: &str) -> Result<Instruction> {
    let (guard, rest) = match text.strip_prefix('@') {
        None => (None, text),
        Some(guarded) => {
            let (register, rest) = guarded
                .split_once(char::is_whitespace)
                .ok_or_else(|| Error::new(format!("line {line}: a guard without instruction: {text}")))?;
            let negated = register.starts_with('!');
            (Some((register.trim_start_matches('!').to_owned(), negated)), rest.trim_start())
        }
    };
    let (opcode, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if !opcode.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(Error::new(format!("line {line}: not an instruction: {text}")));
    }
    Ok(Instruction { line, guard, opcode: opcode.to_owned(), operands: split_operands(operands) })
}

/// Operands apart at the commas outside of braces, brackets and parentheses.
fn split_operands(text: &str) -> Vec<String> {
    let (mut operands, mut depth, mut start) = (Vec::new(), 0u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                operands.push(text[start..at].trim().to_owned());
                start = at + 1;
            }
            _ => {}
        }
    }
    operands.push(text[start..].trim().to_owned());
    operands.retain(|operand| !operand.is_empty());
    operands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_guards_results_and_jump_tables() {
        let text = ".visible .entry f(\n.param .b64 p\n)\n{\n.reg .b32 %r<9>;\nld.param.v2.b32 {%r1, %r2}, [p];\n\
                    setp.lt.s32 %p1, %r1, %r2;\n@!%p1 bra $L__BB_2;\nshfl.sync.bfly.b32 %r3|%p2, %r1, 8, 31, -1;\n\
                    $L_brx_0: .branchtargets\n $L__BB_1,\n $L__BB_2;\nbrx.idx %r3, $L_brx_0;\n$L__BB_1:\n\
                    st.global.b32 [%rd1+4], %r3;\nadd.cc.s64 %rd2, %rd1, 1;\n$L__BB_2:\n@%p1 trap; exit;\nret;\n}\n";
        let entries = parse(text).unwrap();
        let [entry] = entries.as_slice() else { panic!("one kernel: {entries:?}") };
        assert_eq!((entry.name.as_str(), entry.directives.len()), ("f", 1));
        let all: Vec<&Instruction> = entry.blocks.iter().flat_map(|block| &block.instructions).collect();
        assert_eq!(all[0].writes(), ["%r1", "%r2"]);
        assert_eq!(all[2].guard, Some(("%p1".into(), true)));
        assert_eq!((all[3].writes(), all[3].reads()), (vec!["%r3", "%p2"], vec!["%r1"]));
        assert_eq!(all[4].operands, ["%r3", "$L__BB_1", "$L__BB_2"]);
        assert_eq!((all[5].writes(), all[5].reads()), (vec![], vec!["%rd1", "%r3"]));
        assert_eq!(all[6].writes(), ["%rd2", "%carry"]);
        assert_eq!(all.len(), 10);
        assert!(parse("x .entry f()\n{\nadd.s32 %r1\n}\n").is_err());
    }
}
