//! TensorFlow 1 keeps beta^t as an f32 variable that it multiplies once a step. The value after t
//! steps, without keeping state: checkpoints of the product, taken until it stops changing.

/// Steps between two checkpoints: what one look-up multiplies at most.
const STRIDE: u64 = 128;

/// Products of one f32 factor, rounded to f32 after each multiplication.
#[derive(Debug, Clone)]
pub(crate) struct RunningProduct {
    factor: f32,
    /// The product after 0, STRIDE, 2 STRIDE, ... steps; the last is where it stops changing.
    checkpoints: Vec<f32>,
}

impl RunningProduct {
    /// `factor` is in [0, 1): the product reaches a fixed point (0 or a denormal).
    pub(crate) fn of_f32(factor: f32) -> Self {
        let mut checkpoints = vec![1.0];
        let mut product = 1.0_f32;
        loop {
            let before = product;
            product = multiply(product, factor, STRIDE);
            checkpoints.push(product);
            if product.to_bits() == before.to_bits() {
                break;
            }
        }
        Self { factor, checkpoints }
    }

    /// The product after `t` steps.
    pub(crate) fn at(&self, t: u64) -> f64 {
        let last = self.checkpoints.len() - 1;
        let index = usize::try_from(t / STRIDE).unwrap_or(last);
        if index >= last {
            return f64::from(self.checkpoints[last]);
        }
        f64::from(multiply(self.checkpoints[index], self.factor, t % STRIDE))
    }
}

fn multiply(start: f32, factor: f32, times: u64) -> f32 {
    (0..times).fold(start, |product, _| product * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_give_what_multiplying_step_by_step_gives() {
        let products = RunningProduct::of_f32(0.999);
        let mut product = 1.0_f32;
        for t in 0..150_000_u64 {
            assert_eq!(products.at(t).to_bits(), f64::from(product).to_bits(), "t = {t}");
            product *= 0.999;
        }
    }
}
