//! The compiler's PTX without what depends on anything but each kernel itself, so that the same sources give the same
//! bytes and a change of one kernel changes the lines of that kernel alone.
//!
//! - Kernels in alphabetical order. Functions that no kernel calls are left out: they exist because the crate exports
//!   them, under names that carry the crate's hash. A kernel that calls a function is refused: every call in device
//!   code must be inlined, else arguments travel through local memory.
//! - Constant tables that a kernel uses, named by a hash of their contents in place of a hash of the crate.
//! - Labels without the number of the function in the file; they are local to their kernel.
//! - No comments, no empty lines inside a kernel.

use crate::{Error, Result, sha256};
use std::collections::BTreeMap;

/// One definition at the top level of the file.
enum Item {
    /// `.version` and its like, declarations of dynamic shared memory.
    Directive(String),
    /// A variable: name, text.
    Variable(String, String),
    /// A kernel: name, text.
    Entry(String, String),
    /// Any other function: name.
    Function(String),
}

/// The canonical form of `assembly`.
///
/// # Errors
/// When the text has a shape that is not known here, or a kernel calls a function.
pub fn canonicalise(assembly: &str) -> Result<String> {
    let items = split(assembly)?;
    let mut directives = String::new();
    let mut variables = BTreeMap::new();
    let mut entries = BTreeMap::new();
    let mut functions = Vec::new();
    for item in items {
        match item {
            Item::Directive(text) => directives += &(text + "\n"),
            Item::Variable(name, text) => drop(variables.insert(name, text)),
            Item::Entry(name, text) => drop(entries.insert(name, text)),
            Item::Function(name) => functions.push(name),
        }
    }
    if entries.is_empty() {
        return Err(Error::new("the compiler's output has no kernel"));
    }
    let mut tables = BTreeMap::new();
    let mut bodies = String::new();
    for (name, text) in &entries {
        let words: Vec<&str> = words(text).collect();
        if let Some(function) = functions.iter().find(|f| words.contains(&f.as_str())) {
            return Err(Error::new(format!(
                "kernel {name} calls the function {function}: device code must be inlined, mark it #[inline(always)]"
            )));
        }
        bodies.push('\n');
        bodies += &rename(text, &mut |word| match variables.get(word) {
            Some(variable) => {
                let (table, definition) = content_named(word, variable);
                tables.insert(table.clone(), definition);
                Some(table)
            }
            None => without_function_number(word),
        });
    }
    if let Some((table, other)) = tables.iter().find_map(|(t, d)| {
        let other = words(d).find(|word| variables.contains_key(*word))?;
        Some((t, other))
    }) {
        return Err(Error::new(format!(
            "the table {table} holds the address of {other}: device code has no such data"
        )));
    }
    let tables: String = tables.values().map(|definition| format!("{definition}\n")).collect();
    Ok(format!("{directives}{tables}{bodies}"))
}

/// Cuts the file into its definitions, without comments and empty lines.
fn split(assembly: &str) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut lines = assembly.lines().map(without_comment).filter(|line| !line.trim().is_empty());
    while let Some(line) = lines.next() {
        let is_function = line.contains(".entry ") || line.contains(".func ");
        if !is_function {
            let is_module_directive = [".version", ".target", ".address_size"].iter().any(|d| line.starts_with(d));
            let is_variable = [".extern", ".global", ".visible", ".const"].iter().any(|d| line.starts_with(d));
            let is_known = is_module_directive || is_variable && line.ends_with(';');
            if !is_known {
                return Err(Error::new(format!("unknown line outside any function: {line}")));
            }
            let declared = line.split(['[', '=', ';']).next().and_then(|s| s.split_whitespace().last());
            items.push(match declared {
                Some(name) if line.contains(".global") || line.contains(".const") => {
                    Item::Variable(name.into(), line.to_owned())
                }
                _ => Item::Directive(line.to_owned()),
            });
            continue;
        }
        let name =
            words(line.split_once(if line.contains(".entry ") { ".entry" } else { ".func" }).map_or("", |s| s.1))
                .find(|word| {
                    !word.starts_with('.') && !word.starts_with("func_retval") && !word.starts_with(char::is_numeric)
                })
                .unwrap_or_default()
                .to_owned();
        let mut text = format!("{line}\n");
        // A declaration ends with `;`, a definition with the brace that closes its body.
        let mut last = line;
        while !last.starts_with('}') && (text.contains('{') || !last.ends_with(';')) {
            last = lines.next().ok_or_else(|| Error::new(format!("{name} has no end")))?;
            text += last;
            text.push('\n');
        }
        items.push(if line.contains(".entry ") { Item::Entry(name, text) } else { Item::Function(name) });
    }
    Ok(items)
}

fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code).trim_end()
}

/// `$L__BB12_3` and `$L_brx_12_3` with the function's number, 12, left out.
fn without_function_number(word: &str) -> Option<String> {
    let prefix = ["$L__BB", "$L_brx_"].into_iter().find(|prefix| word.starts_with(prefix))?;
    let rest = word[prefix.len()..].trim_start_matches(|c: char| c.is_ascii_digit());
    rest.starts_with('_').then(|| format!("{prefix}{rest}"))
}

/// A variable named by what it holds.
fn content_named(name: &str, text: &str) -> (String, String) {
    let hash = sha256::hex(rename(text, &mut |word| (word == name).then(String::new)).as_bytes());
    let table = format!("table_{}", &hash[..12]);
    let definition = rename(text, &mut |word| (word == name).then(|| table.clone()));
    (table, definition)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_$%.".contains(c)
}

/// The names in a text: of opcodes, registers, labels, variables.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

/// The text with each word that `new` has another name for renamed.
fn rename(text: &str, new: &mut dyn FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        out += &rest[..start];
        out += new(&word[..end]).as_deref().unwrap_or(&word[..end]);
        rest = &word[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(crate_hash: &str, first: u32, call: &str) -> String {
        format!(
            "//\n// Generated by LLVM\n.version 7.8\n.target sm_80\n.address_size 64\n\n\
             .extern .shared .align 16 .b8 dynamic[];\n\
             .global .align 8 .b8 anon_$_{crate_hash}_$_1[2] = {{1, 2}};\n\
             .visible .func  (.param .b32 func_retval0) _RN{crate_hash}f(\n\t.param .b64 p\n)\n{{\n\tret;\n}}\n\
             .visible .entry zeta()\n{{\n\t// begin inline asm\n\tbra.uni \t$L__BB{first}_1;\n$L__BB{first}_1:\n\tret;\n}}\n\
             .visible .entry alpha()\n{{\n\tmov.b64 \t%rd1, anon_$_{crate_hash}_$_1;\n\t{call}ret;\n\t// -- End\n}}\n"
        )
    }

    #[test]
    fn what_does_not_come_from_a_kernel_leaves_no_trace() {
        let one = canonicalise(&module("abc", 7, "")).unwrap();
        assert_eq!(one, canonicalise(&module("XYZ", 12, "")).unwrap());
        assert!(one.find("alpha").unwrap() < one.find("zeta").unwrap());
        assert!(one.contains("$L__BB_1:") && !one.contains("//") && !one.contains("abc") && !one.contains(".func"));
        assert_eq!(one.matches("table_").count(), 2);
    }

    #[test]
    fn a_call_is_refused() {
        let error = canonicalise(&module("abc", 7, "call.uni _RNabcf, (p);\n\t")).unwrap_err().to_string();
        assert!(error.contains("alpha") && error.contains("_RNabcf"), "{error}");
    }
}
