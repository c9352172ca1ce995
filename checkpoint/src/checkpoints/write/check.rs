//! What blocks must be before they are written. Sorts them into block order.

use super::WriteError;
use crate::contents::{ArrayDtype, BlockContents, WEIGHTS, array_problem};

/// Sorts the blocks and refuses what no reader would accept.
pub fn blocks(blocks: &mut [BlockContents]) -> Result<(), WriteError> {
    blocks.sort_by_key(|contents| contents.block);
    if let Some([twice, _]) = blocks.array_windows().find(|[one, other]| one.block == other.block) {
        return Err(WriteError::DuplicateBlock { tensor: twice.tensor.clone(), block: twice.block });
    }
    for contents in blocks.iter() {
        if let Some(problem) = problem(contents) {
            return Err(WriteError::Arrays { tensor: contents.tensor.clone(), block: contents.block, problem });
        }
    }
    Ok(())
}

fn problem(contents: &BlockContents) -> Option<String> {
    let arrays = contents.arrays.iter().map(|array| (array.name.as_str(), array.dtype, array.data.len() as u64));
    if let Some(problem) = array_problem(arrays) {
        return Some(problem);
    }
    match contents.array(WEIGHTS).map(|weights| weights.dtype) {
        Some(ArrayDtype::F32) => None,
        found => Some(format!("expected an array {WEIGHTS:?} of f32, found {found:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::Array;
    use halflife_proto::blocks::BlockId;
    use halflife_proto::ids::TensorIndex;

    fn block(index: u32, arrays: &[(&str, ArrayDtype, usize)]) -> BlockContents {
        let array = |(name, dtype, bytes): &(&str, ArrayDtype, usize)| Array {
            name: (*name).to_owned(),
            dtype: *dtype,
            data: vec![0; *bytes].into(),
        };
        let arrays = arrays.iter().map(array).collect();
        BlockContents { block: BlockId { tensor: TensorIndex(0), index }, tensor: "w".to_owned(), updates: 0, arrays }
    }

    #[test]
    fn bad_blocks_are_refused_with_the_reason() {
        use ArrayDtype::{Bf16, F32};
        let good: &[(&str, ArrayDtype, usize)] = &[("weights", F32, 4)];
        let cases: [(Vec<BlockContents>, &str); 6] = [
            (vec![block(1, good), block(0, good), block(1, good)], "tensor \"w\" block 0/1: expected every block once"),
            (vec![block(0, &[])], "found None"),
            (vec![block(0, &[("weights", Bf16, 4)])], "found Some(Bf16)"),
            (vec![block(0, &[("weights", F32, 6)])], "elements of 4 bytes, found 6"),
            (vec![block(0, &[("weights", F32, 4), ("m", F32, 4), ("m", F32, 4)])], "found \"m\" twice"),
            (vec![block(0, &[("weights", F32, 4), ("", F32, 4)])], "different names"),
        ];
        for (mut contents, expected) in cases {
            let error = blocks(&mut contents).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn blocks_are_sorted() {
        let good: &[(&str, ArrayDtype, usize)] = &[("weights", ArrayDtype::F32, 0), ("m", ArrayDtype::Bf16, 2)];
        let mut contents = [block(2, good), block(0, good), block(1, good)];
        blocks(&mut contents).unwrap();
        assert_eq!(contents.map(|contents| contents.block.index), [0, 1, 2]);
    }
}
