//! Metrics on their way to text. Values come from wherever they are known, family by family, in any order; the encoder is
//! the library's.

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use super::{Family, Kind};

/// All that is told at one question.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, MetricFamily>,
}

/// Counts below bounds, as a histogram is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Ascending bounds, each with how many values do not exceed it.
    pub cumulative: Vec<(f64, u64)>,
    /// How many values there are.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl Exposition {
    /// A value that rises and falls. `labels`: a value for each of the family's, in its order.
    pub fn gauge(&mut self, family: &Family, labels: &[&str], value: f64) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        self.add(family, Kind::Gauge, labels, |metric| metric.set_gauge(gauge));
    }

    /// A count that only rises while the process lives.
    pub fn counter(&mut self, family: &Family, labels: &[&str], value: f64) {
        let mut counter = proto::Counter::default();
        counter.set_value(value);
        self.add(family, Kind::Counter, labels, |metric| metric.set_counter(counter));
    }

    /// A distribution.
    pub fn histogram(&mut self, family: &Family, labels: &[&str], values: &Histogram) {
        let bucket = |(bound, count): &(f64, u64)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        };
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(values.cumulative.iter().map(bucket).collect());
        histogram.set_sample_count(values.count);
        histogram.set_sample_sum(values.sum);
        self.add(family, Kind::Histogram, labels, |metric| metric.set_histogram(histogram));
    }

    fn add(&mut self, family: &Family, kind: Kind, labels: &[&str], set: impl FnOnce(&mut Metric)) {
        debug_assert_eq!(family.kind, kind, "{}", family.name);
        debug_assert_eq!(family.labels.len(), labels.len(), "labels of {}", family.name);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut metric = Metric::from_label(family.labels.iter().zip(labels).map(pair).collect());
        set(&mut metric);
        let known = self.families.entry(family.name).or_insert_with(|| {
            let mut known = MetricFamily::default();
            known.set_name(family.name.to_owned());
            known.set_help(family.help.to_owned());
            known.set_field_type(match family.kind {
                Kind::Gauge => MetricType::GAUGE,
                Kind::Counter => MetricType::COUNTER,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            known
        });
        known.mut_metric().push(metric);
    }

    /// The text, by name.
    ///
    /// # Errors
    /// When the encoder does not take a family.
    pub fn text(self) -> Result<String, prometheus::Error> {
        let families: Vec<MetricFamily> = self.families.into_values().collect();
        TextEncoder::new().encode_to_string(&families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static RATE: Family = Family::gauge("a_rate", &["group"], "How fast.");
    static TIME: Family = Family::histogram("a_seconds", &[], "How long.");

    #[test]
    fn families_are_written_once_with_all_their_series() {
        let mut exposition = Exposition::default();
        exposition.gauge(&RATE, &["x"], 0.5);
        let values = Histogram { cumulative: vec![(0.1, 1), (1.0, 3)], count: 4, sum: 2.5 };
        exposition.histogram(&TIME, &[], &values);
        exposition.gauge(&RATE, &["a \"quoted\"\nname"], f64::NAN);
        let expected = "# HELP a_rate How fast.\n# TYPE a_rate gauge\na_rate{group=\"x\"} 0.5\n\
                        a_rate{group=\"a \\\"quoted\\\"\\nname\"} NaN\n\
                        # HELP a_seconds How long.\n# TYPE a_seconds histogram\na_seconds_bucket{le=\"0.1\"} 1\n\
                        a_seconds_bucket{le=\"1\"} 3\na_seconds_bucket{le=\"+Inf\"} 4\na_seconds_sum 2.5\na_seconds_count 4\n";
        assert_eq!(exposition.text().unwrap(), expected);
    }
}
