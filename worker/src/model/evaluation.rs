//! Loss and accuracy from class scores.

/// How good a model is on a data set.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Part of the samples whose own class has the highest score, 0 to 1.
    pub accuracy: f64,
}

/// Sums over samples: f64, in sample order, transcendental functions from libm.
pub(super) struct Tally {
    classes: usize,
    samples: u64,
    loss: f64,
    correct: u64,
}

impl Tally {
    pub(super) fn new(classes: usize) -> Tally {
        Tally { classes, samples: 0, loss: 0.0, correct: 0 }
    }

    /// Adds samples: `scores` is row-major, samples x classes.
    pub(super) fn add(&mut self, scores: &[f32], labels: &[u32]) {
        for (scores, label) in scores.chunks_exact(self.classes).zip(labels) {
            self.samples += 1;
            self.loss += cross_entropy(scores, *label as usize);
            self.correct += u64::from(is_highest(scores, *label as usize));
        }
    }

    pub(super) fn evaluation(&self) -> Evaluation {
        let samples = self.samples as f64;
        Evaluation { loss: self.loss / samples, accuracy: self.correct as f64 / samples }
    }
}

/// -ln softmax(scores)\[label\], shifted by the highest score so that nothing overflows.
fn cross_entropy(scores: &[f32], label: usize) -> f64 {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = |score: f32| f64::from(score) - f64::from(highest);
    let sum: f64 = scores.iter().map(|score| libm::exp(shifted(*score))).sum();
    libm::log(sum) - shifted(scores[label])
}

/// Whether `label` is the first of the highest scores. NaN is never highest.
fn is_highest(scores: &[f32], label: usize) -> bool {
    let own = scores[label];
    let beats = |(class, score): (usize, &f32)| if class < label { own > *score } else { own >= *score };
    !own.is_nan() && scores.iter().enumerate().all(beats)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluate(scores: &[f32], labels: &[u32]) -> Evaluation {
        let mut tally = Tally::new(2);
        tally.add(scores, labels);
        tally.evaluation()
    }

    #[test]
    fn equal_scores_cost_ln_of_the_classes_and_go_to_the_first() {
        let evaluation = evaluate(&[3.0, 3.0, 3.0, 3.0], &[0, 1]);
        assert!((evaluation.loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!(evaluation.accuracy, 0.5);
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let evaluation = evaluate(&[3e38, -3e38], &[0]);
        assert_eq!(evaluation, Evaluation { loss: 0.0, accuracy: 1.0 });
    }

    #[test]
    fn scores_that_are_not_numbers_are_not_right() {
        let evaluation = evaluate(&[f32::NAN, f32::NAN], &[0]);
        assert!(evaluation.loss.is_nan() && evaluation.accuracy == 0.0);
    }
}
