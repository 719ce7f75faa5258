//! The tables of `docs/lars.md` are made from the variants themselves. After a change, run this test with
//! `SELFSAME_WRITE_PAGES=1` to write them, and read what changed.

mod common;

use common::{Spec, gradients, params, value};
use selfsame_autograd::Role;
use selfsame_autograd::optim::{Lars, LarsOptions, LarsVariant, Optimizer};
use selfsame_engine::{DType, Device};
use std::path::Path;

/// The example of the page: a weight, a bias, and the scale of a normalisation layer that starts at 0.
const SPECS: [Spec; 3] =
    [("weight", Role::Weight, &[1, 2]), ("bias", Role::Bias, &[1]), ("gamma", Role::NormScale, &[1])];

/// Two steps of a warm-up, of each variant: the example's weight, bias and gamma after each.
fn worked_example() -> String {
    let device = Device::cpu_with(1).unwrap();
    let mut table = String::from(
        "| name | w after γ = 1 | bias | gamma | w after γ = 2 | bias | gamma |\n|---|---|---|---|---|---|---|\n",
    );
    for variant in LarsVariant::ALL {
        let set = params(&SPECS, &[vec![3.0, 4.0], vec![4.0], vec![0.0]], DType::F64, &device);
        let options = LarsOptions { momentum: 0.5, weight_decay: 0.75, trust: 0.5, ..LarsOptions::of(*variant) };
        let mut lars = Lars::new(&set, options).unwrap();
        table += &format!("| `{}` |", variant.name());
        for lr in [1.0, 2.0] {
            let gradients = gradients(&set, &SPECS, &[vec![4.0, -3.0], vec![1.0], vec![1.0]]);
            lars.step(&set, &gradients, lr).unwrap();
            let [w, bias, gamma] = SPECS.map(|(path, ..)| value(set.get(path).unwrap()));
            table += &format!(" ({:.4}, {:.4}) | {:.4} | {:.4} |", w[0], w[1], bias[0], gamma[0]);
        }
        table += "\n";
    }
    table
}

/// `page` with `table` between the comments that name it.
fn with_table(page: &str, name: &str, table: &str) -> String {
    let (open, close) = (format!("<!-- table: {name} -->\n"), "<!-- end -->");
    let start = page.find(&open).unwrap_or_else(|| panic!("docs/lars.md has no table '{name}'")) + open.len();
    let end = start + page[start..].find(close).unwrap_or_else(|| panic!("table '{name}' has no end"));
    format!("{}{table}{}", &page[..start], &page[end..])
}

#[test]
fn the_page_shows_the_variants_as_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/lars.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let current = with_table(&page, "variants", &LarsVariant::markdown());
    let current = with_table(&current, "example", &worked_example());
    if std::env::var_os("SELFSAME_WRITE_PAGES").is_some() {
        std::fs::write(&path, &current).unwrap();
        return;
    }
    assert!(page == current, "docs/lars.md is not what the variants give; run with SELFSAME_WRITE_PAGES=1");
}
