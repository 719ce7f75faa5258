//! 1. Arrays: making, viewing and computing. Run with `cargo run --example 01_tensor`.

use selfsame::prelude::*;

fn main() -> Result<()> {
    // A device owns its threads and its memory; nothing is global.
    let device = Device::cpu()?;

    // An array has a shape, an element type and a device.
    let a = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], &device)?;
    println!("a               {a:?}");

    // Views share storage: no element moves.
    let t = a.transpose(0, 1)?;
    println!("transposed      {t:?}");
    println!("shares storage  {}", t.shares_storage(&a));
    println!("every 2nd column {:?}", a.slice_step(1, 0, 3, 2)?);

    // Shapes broadcast as in NumPy.
    let column_means = ops::mean(&a, &[0], true)?;
    println!("centred         {:?}", ops::sub(&a, &column_means)?);

    // Products read transposed views in place.
    println!("a aᵀ            {:?}", ops::matmul(&a, &t)?);

    // Element types are never converted silently.
    let wide = ops::cast(&a, DType::F64)?;
    match ops::add(&a, &wide) {
        Ok(_) => println!("f32 and f64 were added"),
        Err(error) => println!("\nan error says what it got and what it expected:\n{error}\n"),
    }

    // A result has the same bits on one thread and on many.
    let large = ops::cast(&ops::arange(300 * 300, &device)?, DType::F32)?;
    let large = ops::unary(ops::Unary::Sin, &large)?.reshape(&[300, 300])?;
    let many = ops::matmul(&large, &large)?;
    let alone = large.to_device(&Device::cpu_with(1)?)?;
    let one = ops::matmul(&alone, &alone)?;
    println!("same bits on 1 and all threads: {}", many.to_vec::<f32>()? == one.to_vec::<f32>()?);
    Ok(())
}
