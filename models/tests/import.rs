//! State dicts as torchvision and timm write them: names, layouts, prefixes.

use std::collections::BTreeMap;

use selfsame_engine::{Array, DType, Device, TensorFile, ops};
use selfsame_models::backbones::{Backbone, BackboneOpts, backbone};
use selfsame_models::import::{torch, torch_state};
use selfsame_models::weights::Tensors;
use selfsame_models::{Init, Module, params};

fn network(device: &Device, seed: u64, classes: Option<usize>) -> Box<dyn Backbone> {
    let o = BackboneOpts { width: Some(0.125), classes, ..BackboneOpts::default() };
    (backbone("resnet18").unwrap().build)(&Init::new(device, seed).at("backbone"), &o).unwrap()
}

fn transformer(device: &Device, seed: u64) -> Box<dyn Backbone> {
    let small = BackboneOpts { width: Some(0.34), depth: Some(2), ..BackboneOpts::default() };
    let o = BackboneOpts { patch: Some(4), image: Some(8), classes: Some(3), ..small };
    (backbone("vit-tiny").unwrap().build)(&Init::new(device, seed).at("backbone"), &o).unwrap()
}

/// The state dict that PyTorch would hold for `net`: element by element, with its index arithmetic written out.
fn state_dict(net: &dyn Module, prefix: &str) -> Tensors {
    let mut state = Tensors::new();
    for p in params(net) {
        let name = p.path().strip_prefix("backbone.").unwrap();
        let (value, device) = (p.array(), p.array().device().clone());
        let ours = value.to_vec::<f32>().unwrap();
        let theirs = match *value.shape() {
            [h, w, i, o] => {
                let mut oihw = vec![0.0; ours.len()];
                for (at, v) in ours.iter().enumerate() {
                    let (oc, ic, x, y) = (at % o, at / o % i, at / (o * i) % w, at / (o * i * w));
                    oihw[((oc * i + ic) * h + y) * w + x] = *v;
                }
                Array::from_slice(&oihw, &[o, i, h, w], &device)
            }
            [i, o] => {
                let oi: Vec<f32> = (0..o * i).map(|at| ours[at % i * o + at / i]).collect();
                Array::from_slice(&oi, &[o, i], &device)
            }
            _ => Array::from_slice(&ours, value.shape(), &device),
        };
        state.insert(format!("{prefix}{name}"), theirs.unwrap());
        if let Some(layer) = name.strip_suffix("running_var") {
            let count = Array::from_slice(&[100i64], &[], &device).unwrap();
            state.insert(format!("{prefix}{layer}num_batches_tracked"), count);
        }
    }
    state
}

fn values(net: &dyn Module) -> Vec<Vec<f32>> {
    params(net).iter().map(|p| p.array().to_vec().unwrap()).collect()
}

#[test]
fn state_dicts_load_under_every_prefix() {
    let device = Device::cpu_with(1).unwrap();
    let source = network(&device, 1, Some(10));
    for prefix in ["", "module.", "backbone.", "module.encoder_q."] {
        let state = state_dict(&*source, prefix);
        let target = network(&device, 2, Some(10));
        assert_ne!(values(&*source), values(&*target));
        let imported = torch_state(&*target, "backbone", &state).unwrap();
        assert_eq!(values(&*source), values(&*target), "prefix '{prefix}'");
        assert_eq!((imported.prefix.as_str(), imported.unused.len()), (prefix, 0));
    }
}

#[test]
fn transformers_load_what_timm_and_dino_save() {
    let device = Device::cpu_with(1).unwrap();
    let (source, target) = (transformer(&device, 1), transformer(&device, 2));
    for name in ["cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.1.attn.qkv.bias", "norm.weight"] {
        let path = format!("backbone.{name}");
        assert!(params(&*source).iter().any(|p| p.path() == path), "{name}");
    }
    assert_ne!(values(&*source), values(&*target));
    let imported = torch_state(&*target, "backbone", &state_dict(&*source, "module.backbone.")).unwrap();
    assert_eq!((imported.prefix.as_str(), imported.unused.len()), ("module.backbone.", 0));
    assert_eq!(values(&*source), values(&*target));
}

#[test]
fn a_file_in_half_precision_loads_and_names_what_it_had_too_much() {
    let device = Device::cpu_with(1).unwrap();
    let mut state = state_dict(&*network(&device, 1, Some(10)), "");
    for value in state.values_mut().filter(|v| v.dtype() == DType::F32) {
        *value = ops::cast(value, DType::F16).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resnet18.safetensors");
    TensorFile { tensors: state.clone(), metadata: BTreeMap::new() }.write(&path).unwrap();
    let target = network(&device, 2, None);
    let imported = torch(&*target, "backbone", &path).unwrap();
    assert_eq!(imported.unused, ["fc.bias", "fc.weight"]);
    let first = params(&*target)[0].array().to_vec::<f32>().unwrap();
    let rounded = ops::cast(&state["conv1.weight"].permute(&[2, 3, 1, 0]).unwrap(), DType::F32).unwrap();
    assert_eq!(first, rounded.to_vec::<f32>().unwrap());
}

#[test]
fn what_does_not_match_is_listed_and_nothing_written() {
    let device = Device::cpu_with(1).unwrap();
    let mut state = state_dict(&*network(&device, 1, None), "");
    let bias = state.remove("layer1.0.bn1.bias").unwrap();
    state.insert("layer1.0.bn1.bais".into(), bias);
    state.insert("conv1.weight".into(), Array::zeros(&[8, 3, 5, 5], DType::F32, &device).unwrap());
    state.insert("bn1.weight".into(), Array::zeros(&[8, 1, 1], DType::F32, &device).unwrap());
    let target = network(&device, 2, None);
    let before = values(&*target);
    let sentence = torch_state(&*target, "backbone", &state).unwrap_err().sentence();
    for part in [
        "'conv1.weight' is f32[5, 5, 3, 8], not f32[7, 7, 3, 8]",
        "'bn1.weight' has 3 axes",
        "missing 'layer1.0.bn1.bias' (is 'layer1.0.bn1.bais' meant?)",
    ] {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert_eq!(values(&*target), before);
    let empty = torch_state(&*target, "backbone", &Tensors::new()).unwrap_err().sentence();
    assert!(empty.contains("92 more"), "{empty}");
}
