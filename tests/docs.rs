//! Pages of `docs/` that are made from the code: `docs/losses.md`, and `docs/methods/NAME.md` from the documentation of
//! each method's file. `UPDATE_DOCS=1 cargo test --test docs` writes them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use selfsame::losses::{CrossRank, LOSSES, LossSpec, Port, Role};
use selfsame::methods::METHODS;
use selfsame::methods::method::MethodSpec;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages by their place below `docs`.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::from([(PathBuf::from("losses.md"), losses_page())]);
    for spec in METHODS {
        pages.insert(PathBuf::from(format!("methods/{}.md", spec.name)), method_page(spec));
    }
    pages.insert("methods/README.md".into(), methods_page());
    pages
}

fn losses_page() -> String {
    let mut page = String::from(
        "# Losses\n\nEvery objective by itself: `selfsame loss NAME --input IN.safetensors --output OUT.safetensors\n\
         --set key=value` reads the inputs by the names below and writes the outputs, and for each input `x` that is\n\
         differentiated the gradient of the loss as `grad_x`. All are compared with an oracle in f64 and with finite\n\
         differences (`selfsame gradcheck`).\n\n\
         Ranks: *local* losses need nothing of other ranks but the sum; *gather* compares with their samples; *reduce*\n\
         adds up statistics of all samples.\n\n",
    );
    for spec in LOSSES {
        loss_section(spec, &mut page);
    }
    page
}

fn loss_section(spec: &LossSpec, page: &mut String) {
    let ranks = match spec.cross_rank {
        CrossRank::Local => "local",
        CrossRank::GatherNegatives => "gather",
        CrossRank::ReduceStats => "reduce",
    };
    let _ = write!(page, "## {}\n\n{}. {}. Ranks: {ranks}.\n\n", spec.name, capitalised(spec.doc), spec.paper);
    page.push_str("| tensor | shape | |\n|---|---|---|\n");
    for port in spec.inputs {
        let _ = writeln!(page, "| in `{}` | {} | {}{} |", port.name, port.shape, port.doc, notes(port));
    }
    for port in spec.outputs {
        let _ = writeln!(page, "| out `{}` | {} | {} |", port.name, port.shape, port.doc);
    }
    page.push('\n');
    if !spec.options.is_empty() {
        page.push_str("| option | default | values | |\n|---|---|---|---|\n");
        for option in spec.options {
            let _ = writeln!(page, "| `{}` | {} | {} | {} |", option.name, option.default, option.range, option.doc);
        }
        page.push('\n');
    }
}

fn notes(port: &Port) -> String {
    let role = match port.role {
        Role::Differentiated => "",
        Role::Constant => "; a constant",
        Role::Labels => "; i64",
    };
    format!("{role}{}", if port.optional { "; may be missing" } else { "" })
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn methods_page() -> String {
    let mut page = String::from("# Methods\n\n| method | paper | family | status | |\n|---|---|---|---|---|\n");
    for spec in METHODS {
        let (name, family, status) = (spec.name, spec.family.name(), spec.status.name());
        let _ = writeln!(page, "| [{name}]({name}.md) | {} | {family} | {status} | {} |", spec.paper, spec.title);
    }
    page
}

fn method_page(spec: &MethodSpec) -> String {
    let file = format!("methods/src/zoo/{}.rs", spec.name.replace('-', "_"));
    let source = std::fs::read_to_string(root().join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let header: Vec<&str> = source.lines().map_while(|line| line.strip_prefix("//!")).collect();
    let header = header.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n");
    format!(
        "# {}\n\n{} ({}), {}, {}. Source: [{file}](../../{file}).\n\n{}\n\n## Configuration\n\n\
         What it changes of the trainer's defaults, and its own keys (`selfsame show {}` has all of them):\n\n```toml\n{}\n```\n",
        spec.name,
        spec.title,
        spec.paper,
        spec.family.name(),
        spec.status.name(),
        header.trim_end(),
        spec.name,
        spec.defaults.trim()
    )
}

#[test]
fn pages_are_those_of_the_code() {
    let docs = root().join("docs");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(docs.join("methods")).unwrap();
        pages().iter().for_each(|(path, page)| std::fs::write(docs.join(path), page).unwrap());
    }
    let stale: Vec<PathBuf> = pages()
        .into_iter()
        .filter(|(path, page)| std::fs::read_to_string(docs.join(path)).ok().as_ref() != Some(page))
        .map(|(path, _)| path)
        .collect();
    assert!(stale.is_empty(), "out of date: {stale:?}; UPDATE_DOCS=1 cargo test --test docs writes them");
    let known = pages();
    for entry in std::fs::read_dir(docs.join("methods")).unwrap() {
        let name = Path::new("methods").join(entry.unwrap().file_name());
        assert!(known.contains_key(&name), "{} is of no method", name.display());
    }
}

/// The files that may say `unsafe`, and what ARCHITECTURE.md says of them.
#[test]
fn unsafe_code_is_where_the_architecture_says() {
    let listed = [
        "engine/src/array.rs",
        "engine/src/cpu/arena.rs",
        "engine/src/cpu/pages.rs",
        "engine/src/cpu/past.rs",
        "engine/src/cpu/bf16/",
        "engine/src/cpu/contract/",
        "engine/src/cpu/pairs/",
        "engine/src/gpu/",
        "kernels/src/stamp.rs",
        "kernels/src/lanes/exponential.rs",
        "kernels/src/simt/",
        "kernels/src/host/",
        "kernels/src/kernel.rs",
        "data/src/mapped.rs",
        "methods/tests/hostile.rs",
    ];
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let start = text.find("- **`unsafe` only**").expect("the rule");
    let rule = text[start..].split("\n\n").next().unwrap();
    for place in listed {
        let last = place.trim_end_matches('/').rsplit('/').next().unwrap();
        let word = last.strip_suffix(".rs").unwrap_or(last);
        assert!(rule.contains(word), "{place} is not in the rule: {rule}");
    }
    let mut files = Vec::new();
    for folder in ["kernels", "engine", "autograd", "models", "losses", "data", "methods", "src", "tests", "examples"] {
        rust_files(&root().join(folder), &mut files);
    }
    assert!(files.len() > 300, "{} files", files.len());
    for path in files {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
        let allows = concat!("allow(", "unsafe_code)");
        if std::fs::read_to_string(&path).unwrap().contains(allows) {
            assert!(listed.iter().any(|place| name.starts_with(place)), "{name} allows unsafe code");
        }
    }
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}
