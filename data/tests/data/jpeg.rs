//! A minimal JPEG writer for tests: blocks of one value each, so that the expected pixels are known exactly.

/// A baseline JPEG of one row of 8 x 8 blocks; `blocks[k]` holds the value of each component (1: grey, 3: Y, Cb, Cr).
pub(crate) fn flat_blocks(blocks: &[&[u8]]) -> Vec<u8> {
    let components = blocks[0].len();
    let width = 8 * blocks.len() as u16;
    let mut out = vec![0xff, 0xd8];
    // One quantisation table: 8 for the constant term, so that a coefficient of 1 changes the block by 1.
    out.extend([0xff, 0xdb, 0, 67, 0, 8]);
    out.extend([1; 63]);
    out.extend([0xff, 0xc0, 0, 8 + 3 * components as u8, 8, 0, 8]);
    out.extend(width.to_be_bytes());
    out.push(components as u8);
    for id in 1..=components as u8 {
        out.extend([id, 0x11, 0]);
    }
    // Constant terms: the standard's luminance table. Others: one code, `0`, for the end of the block.
    out.extend([0xff, 0xc4, 0, 31, 0x00, 0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
    out.extend(0..12);
    out.extend([0xff, 0xc4, 0, 20, 0x10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend([0xff, 0xda, 0, 6 + 2 * components as u8, components as u8]);
    for id in 1..=components as u8 {
        out.extend([id, 0x00]);
    }
    out.extend([0, 63, 0]);
    let mut bits = String::new();
    let mut last = vec![128i32; components];
    for block in blocks {
        for (&value, last) in block.iter().zip(&mut last) {
            bits.push_str(&constant_term(i32::from(value) - *last));
            bits.push('0');
            *last = i32::from(value);
        }
    }
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    for byte in bits.as_bytes().chunks_exact(8) {
        let byte = byte.iter().fold(0u8, |byte, &bit| byte << 1 | (bit - b'0'));
        out.push(byte);
        if byte == 0xff {
            out.push(0);
        }
    }
    out.extend([0xff, 0xd9]);
    out
}

/// Huffman code of the difference's size, then its bits.
fn constant_term(difference: i32) -> String {
    const CODES: [&str; 9] = ["00", "010", "011", "100", "101", "110", "1110", "11110", "111110"];
    let size = (32 - difference.unsigned_abs().leading_zeros()) as usize;
    let bits = if difference < 0 { difference + (1 << size) - 1 } else { difference };
    if size == 0 { CODES[0].to_string() } else { format!("{}{bits:0size$b}", CODES[size]) }
}
