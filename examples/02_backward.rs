//! 2. Gradients: tensors, backward, parameters. Run with `cargo run --example 02_backward`.

use selfsame::autograd::Role;
use selfsame::prelude::*;

fn main() -> Result<()> {
    let device = Device::cpu()?;

    // A leaf is an input whose gradient is wanted; a constant is not.
    let x = Tensor::leaf(Array::from_slice(&[0.5f64, -1.0, 2.0], &[3], &device)?);
    let w = Tensor::constant(Array::from_slice(&[1.0f64, 2.0, 3.0], &[3], &device)?);
    let loss = x.mul(&w)?.tanh()?.sum_all()?;
    let gradient = loss.backward()?.get(&x)?.expect("the loss depends on x").to_vec::<f64>()?;
    println!("d/dx Σ tanh(w x) = {gradient:?}");

    // The same by differences, one element at a time.
    let value = |shift: [f64; 3]| -> Result<f64> {
        let moved = Tensor::constant(Array::from_slice(&shift, &[3], &device)?);
        x.detach().add(&moved)?.mul(&w)?.tanh()?.sum_all()?.array().item()
    };
    let h = 1e-5;
    for (i, analytic) in gradient.iter().enumerate() {
        let (mut up, mut down) = ([0.0; 3], [0.0; 3]);
        (up[i], down[i]) = (h, -h);
        let difference = (value(up)? - value(down)?) / (2.0 * h);
        println!("  element {i}: backward {analytic:.8}, difference {difference:.8}");
    }

    // A graph can be walked once: what it kept for backward is released as it is used.
    if let Err(error) = loss.backward() {
        println!("\na second backward:\n{error}\n");
    }

    // A parameter is shared and written between steps. Here gradient descent fits y = 3 x - 1.
    let xs = Tensor::constant(Array::from_slice(&[-1.0f32, 0.0, 1.0, 2.0], &[4], &device)?);
    let ys = Tensor::constant(Array::from_slice(&[-4.0f32, -1.0, 2.0, 5.0], &[4], &device)?);
    let slope = Param::new("slope", Role::Weight, Array::scalar(0.0f32, &device)?);
    let offset = Param::new("offset", Role::Bias, Array::scalar(0.0f32, &device)?);
    for step in 0..=60 {
        let error = xs.mul(&slope.tensor())?.add(&offset.tensor())?.sub(&ys)?;
        let loss = error.square()?.sum_all()?.scale(1.0 / 4.0)?;
        let grads = loss.backward()?;
        for param in [&slope, &offset] {
            let gradient = grads.param(param)?.expect("both parameters are used");
            param.set(ops::add_scaled(param.array(), -0.2, &gradient)?)?;
        }
        if step % 20 == 0 {
            println!("step {step:2}: loss {:.6}", loss.array().item::<f32>()?);
        }
    }
    println!("y = {:.4} x + {:.4}", slope.array().item::<f32>()?, offset.array().item::<f32>()?);
    Ok(())
}
