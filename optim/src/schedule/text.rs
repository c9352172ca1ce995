//! Reading and writing a schedule: a bare number, or a table with a `kind`.
//!
//! Written by hand because serde's untagged enums swallow the error of the matching arm, and an
//! unknown key in a schedule must be named.

use super::{Curve, ScheduleConfig};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

impl Serialize for ScheduleConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Constant(value) => serializer.serialize_f64(*value),
            Self::Curve(curve) => curve.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ScheduleConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrTable)
    }
}

struct NumberOrTable;

impl<'de> Visitor<'de> for NumberOrTable {
    type Value = ScheduleConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or a table such as { kind = \"cosine\", base = 0.001 }")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(ScheduleConfig::Constant(value))
    }

    #[allow(clippy::cast_precision_loss)] // a learning rate above 2^53 is refused later anyway
    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(ScheduleConfig::Constant(value as f64))
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(ScheduleConfig::Constant(value as f64))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Curve::deserialize(MapAccessDeserializer::new(map)).map(ScheduleConfig::from)
    }
}
