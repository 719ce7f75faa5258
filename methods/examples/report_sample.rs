//! Writes a report of invented data, to look at the page without training anything:
//! `cargo run -p selfsame-methods --example report_sample -- sample.html`

use std::path::PathBuf;

use selfsame_engine::Result;
use selfsame_methods::run::report::{
    self, Confusion, Constant, Cost, Curve, EmbeddingMap, Headline, Neighbour, NeighbourRow, Phase, Report, RgbImage,
    Series, Setting, ViewRow, pca_2d,
};

const CLASSES: [&str; 10] =
    ["disc", "ring", "square", "triangle", "star", "cross", "crescent", "heart", "arrow", "hexagon"];
const SIDE: usize = 32;

/// A small generator of reproducible noise (xorshift64*).
struct Noise(u64);

impl Noise {
    /// Uniform in [0, 1).
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Roughly normal, with variance 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// A shape of `class` on a shaded ground; `jitter` moves and recolours it, as an augmentation would.
fn image(class: usize, noise: &mut Noise) -> Result<RgbImage> {
    let mut colour = || [0; 3].map(|_| 40.0 + 190.0 * noise.uniform());
    let (ground, ink) = (colour(), colour());
    let (cx, cy, radius) = (0.3 + 0.4 * noise.uniform(), 0.3 + 0.4 * noise.uniform(), 0.18 + 0.14 * noise.uniform());
    let mut pixels = Vec::with_capacity(3 * SIDE * SIDE);
    for at in 0..SIDE * SIDE {
        let x = ((at % SIDE) as f64 / SIDE as f64 - cx) / radius;
        let y = ((at / SIDE) as f64 / SIDE as f64 - cy) / radius;
        let distance = (x * x + y * y).sqrt();
        let inside = match class {
            0 => distance < 1.0,
            1 => (0.55..1.0).contains(&distance),
            2 => x.abs().max(y.abs()) < 0.85,
            3 => y < 0.8 && y > 2.0 * x.abs() - 1.0,
            4 => x.abs() * y.abs() < 0.12 && distance < 1.1,
            5 => x.abs().min(y.abs()) < 0.3 && x.abs().max(y.abs()) < 1.0,
            6 => distance < 1.0 && ((x - 0.4) * (x - 0.4) + y * y).sqrt() > 0.8,
            7 => y < 1.0 - 1.2 * x.abs() && y > -0.9 + (x.abs() - 0.5).abs(),
            8 => (x.abs() < 0.25 && y.abs() < 1.0) || (y < 0.0 && x.abs() < y + 1.0),
            _ => x.abs() < 0.87 && y.abs() + 0.58 * x.abs() < 1.0,
        };
        for channel in 0..3 {
            let base =
                if inside { ink[channel] } else { ground[channel] * (0.8 + 0.3 * (at / SIDE) as f64 / SIDE as f64) };
            pixels.push((base + 10.0 * noise.normal()).clamp(0.0, 255.0) as u8);
        }
    }
    RgbImage::new(SIDE as u32, SIDE as u32, pixels)
}

fn curve(title: &str, x: &str, y: &str, series: Vec<(&str, Vec<[f64; 2]>)>, constants: &[(&str, f64)]) -> Curve {
    Curve {
        title: title.into(),
        x_label: x.into(),
        y_label: y.into(),
        series: series.into_iter().map(|(label, points)| Series { label: label.into(), points }).collect(),
        constants: constants.iter().map(|&(label, value)| Constant { label: label.into(), value }).collect(),
    }
}

/// Falls from `from` to `to` over `scale` steps, then ever more slowly.
fn decay(from: f64, to: f64, scale: f64, step: f64) -> f64 {
    to + (from - to) / (1.0 + step / scale)
}

fn curves(noise: &mut Noise) -> Vec<Curve> {
    const STEPS: usize = 2400;
    let over_steps = |f: &mut dyn FnMut(f64) -> f64| (0..STEPS).map(|i| [i as f64, f(i as f64)]).collect::<Vec<_>>();
    let over_epochs = |f: &dyn Fn(f64) -> f64| (0..=20).map(|e| [f64::from(e), f(f64::from(e))]).collect::<Vec<_>>();
    let loss = over_steps(&mut |step| decay(6.3, 3.9, 260.0, step) + 0.07 * noise.normal());
    let norm = over_steps(&mut |step| decay(4.0, 1.1, 200.0, step) * (1.0 + 0.12 * noise.normal()));
    let rate = over_steps(&mut |step| {
        let rest = (1.0 - (step - 240.0) / (STEPS as f64 - 240.0)).clamp(0.0, 1.0);
        if step < 240.0 { 0.6 * step / 240.0 } else { 0.6 * rest * rest * (3.0 - 2.0 * rest) }
    });
    let spread = over_steps(&mut |step| decay(0.012, 0.086, 150.0, step) + 0.001 * noise.normal());
    vec![
        curve("NT-Xent loss", "step", "nats", vec![("loss", loss)], &[("ln(2N-1)", 6.2364)]),
        curve(
            "kNN accuracy",
            "epoch",
            "%",
            vec![
                ("trained", over_epochs(&|epoch| decay(31.0, 78.0, 3.0, epoch))),
                ("linear probe", over_epochs(&|epoch| decay(35.0, 82.0, 3.4, epoch))),
            ],
            &[("raw pixels", 24.6), ("untrained", 31.2)],
        ),
        curve("Learning rate", "step", "", vec![("lr", rate)], &[]),
        curve("Embedding standard deviation", "step", "", vec![("std", spread)], &[("1/√D", 0.0884)]),
        curve(
            "Effective rank",
            "epoch",
            "",
            vec![("rank", over_epochs(&|epoch| decay(6.0, 84.0, 4.0, epoch)))],
            &[("D", 128.0)],
        ),
        curve("Gradient norm", "step", "", vec![("norm", norm)], &[]),
    ]
}

fn map(noise: &mut Noise) -> Result<EmbeddingMap> {
    const POINTS: usize = 900;
    const DIM: usize = 16;
    let centres: Vec<f64> = (0..CLASSES.len() * DIM).map(|_| 2.2 * noise.normal()).collect();
    let (mut embeddings, mut classes, mut thumbnails) = (Vec::new(), Vec::new(), Vec::new());
    for point in 0..POINTS {
        let class = point % CLASSES.len();
        embeddings.extend((0..DIM).map(|at| (centres[class * DIM + at] + noise.normal()) as f32));
        classes.push(class);
        thumbnails.push(image(class, noise)?);
    }
    Ok(EmbeddingMap {
        note: format!("Two principal components of {POINTS} test embeddings. Point at one to see its image."),
        points: pca_2d(&embeddings, POINTS, DIM)?,
        classes,
        class_names: CLASSES.map(String::from).to_vec(),
        thumbnails,
    })
}

fn confusion(noise: &mut Noise) -> Confusion {
    let counts = (0..100).map(|at| match at / 10 == at % 10 {
        true => 62 + (34.0 * noise.uniform()) as u64,
        false => (9.0 * noise.uniform() * noise.uniform()) as u64,
    });
    Confusion {
        predictor: "Linear probe on 1,000 test images".into(),
        counts: counts.collect(),
        class_names: CLASSES.map(String::from).to_vec(),
    }
}

fn sample() -> Result<Report> {
    let mut noise = Noise(0x5eed);
    let headline = |label: &str, value: f64, detail: &str| Headline {
        label: label.into(),
        value: format!("{value:.1} %"),
        detail: detail.into(),
        fraction: Some(value / 100.0),
    };
    let setting =
        |key: &str, value: &str, source: &str| Setting { key: key.into(), value: value.into(), source: source.into() };
    let mut views = Vec::new();
    let mut neighbours = Vec::new();
    for row in 0..8 {
        let class = (row * 3) % CLASSES.len();
        let picture = |noise: &mut Noise| image(class, noise);
        views.push(ViewRow { source: picture(&mut noise)?, views: vec![picture(&mut noise)?, picture(&mut noise)?] });
        let mut found = Vec::new();
        for rank in 0..8 {
            let other = if noise.uniform() < 0.2 { (class + 4) % CLASSES.len() } else { class };
            let similarity = 0.98 - 0.03 * f64::from(rank) - 0.01 * noise.uniform();
            found.push(Neighbour { image: image(other, &mut noise)?, class: CLASSES[other].into(), similarity });
        }
        neighbours.push(NeighbourRow { query: picture(&mut noise)?, class: CLASSES[class].into(), neighbours: found });
    }
    Ok(Report {
        title: "SimCLR on scenes".into(),
        subtitle: "Sample of invented figures: ResNet-8 (width 24), 2 x 256 views a step, 20 epochs, seed 7.".into(),
        headlines: vec![
            headline("kNN accuracy, trained", 72.4, "+41.2 points over untrained"),
            headline("kNN, untrained encoder", 31.2, "same network, same protocol"),
            headline("kNN, raw pixels", 24.6, "chance is 10.0 %"),
            headline("Linear probe, trained", 76.8, "100 epochs on frozen features"),
        ],
        warnings: vec!["checkpoint of step 1,200 was corrupt; resumed from step 1,080".into()],
        curves: curves(&mut noise),
        views,
        neighbours,
        map: Some(map(&mut noise)?),
        confusion: Some(confusion(&mut noise)),
        cost: Some(Cost {
            images_per_second: 2841.0,
            seconds: 187.4,
            steps: 2400,
            peak_bytes: Some(812 << 20),
            phases: [("data", 9.1), ("forward", 58.0), ("backward", 104.2), ("optimiser", 11.3), ("other", 4.8)]
                .map(|(label, seconds)| Phase { label: label.into(), seconds })
                .to_vec(),
        }),
        configuration: vec![
            setting("method", "\"simclr\"", "command line"),
            setting("seed", "7", "--set"),
            setting("model.backbone", "\"resnet8\"", "recipe"),
            setting("model.width", "24", "recipe"),
            setting("head.layers", "2", "default"),
            setting("head.out_dim", "128", "default"),
            setting("loss.temperature", "0.2", "--set"),
            setting("optimiser.name", "\"lars\"", "default"),
            setting("optimiser.lr", "0.6", "recipe"),
            setting("optimiser.momentum", "0.9", "default"),
            setting("optimiser.weight_decay", "1e-6", "default"),
            setting("schedule.warmup_epochs", "2", "recipe"),
            setting("schedule.epochs", "20", "recipe"),
            setting("augment.crop_scale", "[0.2, 1.0]", "default"),
            setting("augment.colour_jitter", "[0.4, 0.4, 0.4, 0.1]", "default"),
            setting("augment.grey", "0.2", "default"),
        ],
        manifest: [
            ("selfsame", "0.1.0"),
            ("method", "simclr"),
            ("seed", "7"),
            ("numerics", "strict"),
            ("data", "scenes"),
            ("data checksum", "xxh3:9f86d081884c7d65"),
            ("weights hash", "xxh3:2c26b46b68ffc68f"),
            ("device", "cpu"),
            ("instruction set", "avx512"),
            ("threads", "2"),
            ("started", "2026-01-31T09:05:00Z"),
            ("command", "selfsame demo --out runs/demo --set loss.temperature=0.2 --set seed=7"),
        ]
        .map(|(key, value)| (key.into(), value.into()))
        .to_vec(),
    })
}

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("report_sample.html"), PathBuf::from);
    report::write(&path, &sample()?)?;
    println!("wrote {}", path.display());
    Ok(())
}
