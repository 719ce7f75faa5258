//! A profile as text, and as JSON.

use std::time::Duration;

use selfsame_engine::profile::{Kind, OWNERS, Owner, OwnerBytes, Piece, Plan, Recording, Roof, Total};
use serde_json::{Map, Value, json};

use super::super::output::table;
use super::{Measured, Run};

/// Arrays named in the explanation of the peak.
const LARGEST: usize = 8;
/// Rows of a table of operations.
const ROWS: usize = 24;

/// Bytes as people read them.
pub(super) fn mib(bytes: usize) -> String {
    let mib = bytes as f64 / (1 << 20) as f64;
    if mib >= 1024.0 { format!("{:.2} GiB", mib / 1024.0) } else { format!("{mib:.1} MiB") }
}

fn milliseconds(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// "batch 512 needs 1.9 GiB: 1.2 GiB saved activations, …"
pub(super) fn plan_sentence(label: &str, unit: &str, plan: &Plan) -> String {
    let mut owners: Vec<(Owner, usize)> = Owner::ALL.into_iter().zip(plan.by_owner).filter(|(_, n)| *n > 0).collect();
    owners.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let parts: Vec<String> = owners.iter().map(|(owner, n)| format!("{} {}", mib(*n), owner.name())).collect();
    format!("plan: {label} with {} {unit} needs {}: {}", plan.batch, mib(plan.bytes()), parts.join(", "))
}

/// The whole report of one run.
pub(super) fn page(machine: &str, unit: &str, one: &Measured, run: &Run, roof: Option<Roof>) -> String {
    let (recording, step) = (&run.recording, run.step());
    let steps = run.steps.len().max(1);
    let rate = one.batch as f64 / step.as_secs_f64();
    let mut page = format!(
        "\n{} with {} {unit}, {machine}: {:.1} ms per step (median of {steps}), {rate:.0} {unit}/s\n",
        one.label,
        one.batch,
        milliseconds(step),
    );
    if let Some(roof) = roof {
        page += &format!(
            "roof, measured here: {:.0} GFLOP/s, {:.2} G exponentials/s, {:.1} GB/s of copying\n",
            roof.flops / 1e9,
            roof.specials / 1e9,
            roof.bandwidth / 1e9
        );
    }
    page += &phases(recording, &run.steps);
    for (kind, title) in [(Kind::Primitive, "primitives"), (Kind::Kernel, "kernels")] {
        page += &work(recording, kind, title, &run.steps, roof);
    }
    page += &operations(recording, &run.steps);
    page += &memory(one, run);
    page
}

fn phases(recording: &Recording, steps: &[Duration]) -> String {
    let whole: Duration = steps.iter().sum();
    let share = |time: Duration| format!("{:.1} %", 100.0 * time.as_secs_f64() / whole.as_secs_f64());
    let each = |time: Duration| format!("{:.2}", milliseconds(time) / steps.len().max(1) as f64);
    let mut rows: Vec<Vec<String>> = recording
        .of(Kind::Phase)
        .iter()
        .map(|(name, total)| vec![name.to_string(), each(total.time), share(total.time)])
        .collect();
    for (name, time) in &recording.regions {
        rows.push(vec![format!("{name}, both ways"), each(*time), share(*time)]);
    }
    for (kind, name) in [(Kind::Load, "loading (beside)"), (Kind::Augment, "augmentation (beside)")] {
        let time: Duration = recording.of(kind).iter().map(|(_, total)| total.time).sum();
        if time > Duration::ZERO {
            rows.push(vec![name.to_string(), each(time), share(time)]);
        }
    }
    format!("\n{}", table(&["phase", "ms", "of the step"], &[false, true, true], &rows))
}

/// Primitives or kernels against their own roofs.
fn work(recording: &Recording, kind: Kind, title: &str, steps: &[Duration], roof: Option<Roof>) -> String {
    let totals = recording.of(kind);
    if totals.is_empty() {
        return String::new();
    }
    let whole: Duration = steps.iter().sum();
    let count = steps.len().max(1) as f64;
    let row = |(name, total): &(&'static str, Total)| {
        let seconds = total.own.as_secs_f64();
        let rate = |amount: u64| if amount > 0 { format!("{:.1}", amount as f64 / seconds / 1e9) } else { "-".into() };
        let per_step = |amount: u64, unit: f64| match amount {
            0 => "-".into(),
            amount => format!("{:.2}", amount as f64 / count / unit),
        };
        vec![
            name.to_string(),
            format!("{:.0}", total.calls as f64 / count),
            format!("{:.2}", milliseconds(total.own) / count),
            format!("{:.1} %", 100.0 * seconds / whole.as_secs_f64()),
            per_step(total.work.flop, 1e9),
            per_step(total.work.bytes, 1e6),
            per_step(total.work.special, 1e6),
            rate(total.work.flop),
            rate(total.work.bytes),
            total.share_of_roof().map_or("-".into(), |share| format!("{:.0} %", 100.0 * share)),
            roof.filter(|_| total.bound > Duration::ZERO).map_or("-", |roof| roof.bound_by(total.work)).into(),
        ]
    };
    let mut rows: Vec<Vec<String>> = totals.iter().take(ROWS).map(row).collect();
    if totals.len() > ROWS {
        let mut rest = Total::default();
        for (_, total) in &totals[ROWS..] {
            rest.calls += total.calls;
            rest.own += total.own;
            rest.work += total.work;
            rest.bound += total.bound;
        }
        let mut rest = row(&("", rest));
        rest[0] = format!("{} more", totals.len() - ROWS);
        rows.push(rest);
    }
    let headings =
        [title, "calls", "ms", "of the step", "GFLOP", "MB", "Mexp", "GFLOP/s", "GB/s", "of its roof", "bound by"];
    let numeric = [false, true, true, true, true, true, true, true, true, true, false];
    format!("\nper step, without what is called inside:\n{}", table(&headings, &numeric, &rows))
}

/// Differentiable operations, forward and backward, and the modules they belong to.
fn operations(recording: &Recording, steps: &[Duration]) -> String {
    let count = steps.len().max(1) as f64;
    let (forward, backward) = (recording.of(Kind::Op), recording.of(Kind::OpBackward));
    let mut names: Vec<&'static str> = forward.iter().chain(&backward).map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let own = |rows: &[(&'static str, Total)], name| {
        rows.iter().find(|row| row.0 == name).map(|row| row.1).unwrap_or_default()
    };
    let mut rows: Vec<(Duration, Vec<String>)> = names
        .into_iter()
        .map(|name| {
            let (there, back) = (own(&forward, name), own(&backward, name));
            let ms = |total: Total| format!("{:.2}", milliseconds(total.own) / count);
            let calls = format!("{:.0}", there.calls as f64 / count);
            (there.own + back.own, vec![name.to_string(), calls, ms(there), ms(back)])
        })
        .collect();
    rows.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let rows: Vec<Vec<String>> = rows.into_iter().take(ROWS).map(|(_, row)| row).collect();
    let mut text = format!(
        "\n{}",
        table(&["differentiable operation", "calls", "ms forward", "ms backward"], &[false, true, true, true], &rows)
    );
    let mut modules: Vec<_> = recording.module_time.iter().collect();
    modules.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let rows: Vec<Vec<String>> = modules
        .iter()
        .take(LARGEST)
        .map(|(path, time)| vec![path.to_string(), format!("{:.2}", milliseconds(**time) / count)])
        .collect();
    if !rows.is_empty() {
        text += &format!("\n{}", table(&["module, both ways", "ms"], &[false, true], &rows));
    }
    text
}

/// Plan and measurement by owner, and what the peak is made of.
fn memory(one: &Measured, run: &Run) -> String {
    let Some(peak) = run.memory.peak() else { return String::new() };
    let mut most: OwnerBytes = [0; OWNERS];
    for (_, bytes) in run.memory.timeline() {
        most.iter_mut().zip(bytes).for_each(|(most, bytes)| *most = (*most).max(bytes));
    }
    let planned = |owner: Owner| one.planned.as_ref().map_or("-".into(), |plan| mib(plan.of(owner)));
    let mut rows: Vec<Vec<String>> = Owner::ALL
        .into_iter()
        .filter(|owner| most[*owner as usize] > 0)
        .map(|owner| {
            let at = owner as usize;
            vec![owner.name().into(), planned(owner), mib(peak.by_owner[at]), mib(most[at])]
        })
        .collect();
    let plan = one.planned.as_ref();
    rows.push(vec![
        "all".into(),
        plan.map_or("-".into(), |plan| mib(plan.bytes())),
        mib(peak.bytes()),
        plan.map_or(String::new(), |plan| {
            format!("plan {:+.1} %", 100.0 * (plan.bytes() as f64 / peak.bytes().max(1) as f64 - 1.0))
        }),
    ]);
    let mut text = format!(
        "\n{}",
        table(&["memory", "planned peak", "at the peak", "at most"], &[false, true, true, true], &rows)
    );
    text += &format!("beside arrays, contractions hold {} of packed operands and tiles\n", mib(run.scratch));
    text += &format!("\nthe peak is made of {} arrays; the largest:\n", peak.pieces.len());
    for (count, piece) in grouped(&peak.pieces).into_iter().take(LARGEST) {
        let times = if count > 1 { format!("{count} x ") } else { String::new() };
        let (owner, op, shape) = (piece.owner.name(), piece.op, piece.shape.as_slice());
        text += &format!("  {times}{} {shape:?} of {op}: {owner}\n", mib(piece.bytes));
    }
    text
}

/// Equal pieces counted, the most memory first.
fn grouped(pieces: &[Piece]) -> Vec<(usize, Piece)> {
    let mut groups: Vec<(usize, Piece)> = Vec::new();
    for piece in pieces {
        match groups.iter_mut().find(|(_, known)| known == piece) {
            Some((count, _)) => *count += 1,
            None => groups.push((1, *piece)),
        }
    }
    groups.sort_by_key(|(count, piece)| std::cmp::Reverse(count * piece.bytes));
    groups
}

fn owners_json(bytes: &OwnerBytes) -> Value {
    let owners: Map<String, Value> =
        Owner::ALL.into_iter().zip(bytes).map(|(owner, bytes)| (owner.name().to_string(), json!(bytes))).collect();
    Value::Object(owners)
}

/// One batch of one subject.
pub(super) fn json_of(one: &Measured) -> Value {
    let planned =
        one.planned.as_ref().map(|plan| json!({ "bytes": plan.bytes(), "by_owner": owners_json(&plan.by_owner) }));
    let mut object = json!({ "name": one.label, "batch": one.batch, "planned": planned });
    if let Some(run) = &one.run {
        let recording = &run.recording;
        let totals: Vec<Value> = recording
            .totals
            .iter()
            .map(|((kind, name), total)| {
                json!({ "kind": kind.name(), "name": name, "calls": total.calls, "seconds": total.time.as_secs_f64(),
                        "own_seconds": total.own.as_secs_f64(), "flop": total.work.flop, "bytes": total.work.bytes,
                        "exponentials": total.work.special, "share_of_roof": total.share_of_roof() })
            })
            .collect();
        let peak = run.memory.peak();
        let largest: Vec<Value> = peak
            .iter()
            .flat_map(|peak| grouped(&peak.pieces))
            .take(LARGEST)
            .map(|(count, piece)| {
                json!({ "count": count, "bytes": piece.bytes, "shape": piece.shape.as_slice(), "op": piece.op,
                        "owner": piece.owner.name() })
            })
            .collect();
        object["steps"] = json!(run.steps.iter().map(Duration::as_secs_f64).collect::<Vec<_>>());
        object["step_seconds"] = json!(run.step().as_secs_f64());
        object["loss_share"] = json!(run.loss_share());
        object["totals"] = json!(totals);
        object["measured"] = json!({
            "bytes": run.peak(), "by_owner": peak.as_ref().map(|peak| owners_json(&peak.by_owner)),
            "largest": largest, "scratch_bytes": run.scratch,
        });
        object["spans_dropped"] = json!(recording.dropped);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_as_a_sentence() {
        let mut by_owner: OwnerBytes = [0; OWNERS];
        by_owner[Owner::Saved as usize] = 5 << 28;
        by_owner[Owner::Parameters as usize] = 3 << 20;
        let plan = Plan { batch: 512, by_owner, pieces: Vec::new() };
        let sentence = plan_sentence("simclr", "images", &plan);
        assert_eq!(
            sentence,
            "plan: simclr with 512 images needs 1.25 GiB: 1.25 GiB saved activations, 3.0 MiB parameters"
        );
    }
}
