//! The gradient pipeline: what happens to a combined gradient before the rule sees it.

use serde::{Deserialize, Serialize};

/// One operation on the gradient g. They run strictly in the order written.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum GradientOp {
    /// g * by.
    Rescale {
        /// Factor.
        by: f64,
    },
    /// g limited to [-at, at].
    ClipValue {
        /// Limit.
        at: f64,
    },
    /// g limited to a norm of `max_norm`, each tensor on its own.
    ClipNorm {
        /// Limit.
        max_norm: f64,
        /// How the norm becomes a factor.
        #[serde(default)]
        form: NormForm,
    },
    /// g limited to a norm of `max_norm` over all tensors of the model.
    ClipGlobalNorm {
        /// Limit.
        max_norm: f64,
        /// How the norm becomes a factor.
        #[serde(default)]
        form: NormForm,
    },
    /// g + wd decay_mult w (needs `weight_decay.mode = "l2"`).
    L2,
    /// g + wd decay_mult sign(w), sign(0) = 0 (needs `weight_decay.mode = "l1"`).
    L1,
}

/// How a norm clip turns the norm n into a factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormForm {
    /// min(1, max / (n + 1e-6)): `clip_grad_norm_`.
    #[default]
    Torch,
    /// max / max(n, max): `tf.clip_by_global_norm`.
    Tf,
    /// 1 if n < max, else max / n: `optax.clip_by_global_norm`.
    Optax,
    /// max / n if n > max, else 1: Caffe's `clip_gradients`.
    Caffe,
}
