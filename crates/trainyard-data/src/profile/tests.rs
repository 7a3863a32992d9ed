use arrow::array::{Float64Array, Int64Array, StringArray};
use proptest::prelude::*;

use super::*;
use crate::schema::{Field, Kind};
use crate::stats::Rng;

fn field(kind: Kind) -> Field {
    Field { name: "x".into(), kind, physical: String::new() }
}

fn floats(values: &[f64], edges: &[f64]) -> ColumnProfile {
    let mut p = ColumnProfile::new(field(Kind::Float), Some(edges));
    for chunk in values.chunks(1000) {
        p.add(&Float64Array::from(chunk.to_vec()));
    }
    p.seal();
    p
}

fn texts(values: &[String]) -> ColumnProfile {
    let mut p = ColumnProfile::new(field(Kind::Text), None);
    p.add(&StringArray::from(values.to_vec()));
    p.seal();
    p
}

fn any_float() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -1e6..1e6_f64,
        1 => any::<f64>(),
        1 => (-3..4_i32).prop_map(f64::from),
        1 => Just(-0.0),
        1 => Just(f64::MIN_POSITIVE / 8.0),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Exact parts do not depend on how rows are grouped or ordered, to the bit.
    #[test]
    fn merging_is_associative_and_commutative(
        a in prop::collection::vec(any_float(), 0..200),
        b in prop::collection::vec(any_float(), 0..200),
        c in prop::collection::vec(any_float(), 0..200),
    ) {
        let edges = [-1e5, -1.0, 0.0, 1.0, 2.5, 1e5];
        let whole: Vec<f64> = a.iter().chain(&b).chain(&c).copied().collect();
        let whole = floats(&whole, &edges);
        let [a, b, c] = [&a, &b, &c].map(|v| floats(v, &edges));
        let mut left = a.clone();
        left.merge(&b);
        left.merge(&c);
        let mut right = c.clone();
        right.merge(&b);
        right.merge(&a);
        prop_assert!(left.agrees_exactly(&right));
        prop_assert!(left.agrees_exactly(&whole));
    }

    /// Summing by exponent is summing one by one.
    #[test]
    fn sums_of_many_are_sums_of_each(values in prop::collection::vec(any_float(), 256..600)) {
        let values: Vec<f64> = values.into_iter().filter(|x| x.is_finite()).collect();
        let (mut sum, mut squares) = (ExactSum::default(), ExactSum::default());
        ExactSum::add_all(&values, &mut sum, &mut squares);
        let (mut one_sum, mut one_squares) = (ExactSum::default(), ExactSum::default());
        for x in &values {
            one_sum.add(*x);
            one_squares.add_square(*x);
        }
        prop_assert!(sum == one_sum && squares == one_squares, "{sum:?} {one_sum:?} {squares:?} {one_squares:?}");
    }

    /// Integers of a narrow range are counted first; those beside one that is far away are not. Both are the same.
    #[test]
    fn counted_integers_are_integers(values in prop::collection::vec(-3000..3000_i64, 1..300)) {
        let edges = [-1e5, -1.0, 0.0, 1.0, 2.5, 1e5];
        let profile = |values: &[i64]| {
            let mut p = ColumnProfile::new(field(Kind::Int), Some(&edges));
            values.chunks(100).for_each(|chunk| p.add(&Int64Array::from(chunk.to_vec())));
            p.seal();
            p
        };
        let far = 1 << 50;
        let mut beside = values.clone();
        for at in (0..values.len()).step_by(50).rev() {
            beside.insert(at, far);
        }
        let mut counted = profile(&values);
        counted.merge(&profile(&vec![far; beside.len() - values.len()]));
        prop_assert!(counted.agrees_exactly(&profile(&beside)));
    }

    /// A profile is what its file says.
    #[test]
    fn a_file_holds_the_profile(values in prop::collection::vec(any_float(), 0..300)) {
        let column = floats(&values, &[0.0, 1.0]);
        let mut profile = Profile::new(vec![column]);
        profile.columns[0].field.name = "ü\"\n".into();
        let text = profile.to_json().unwrap();
        let back = Profile::from_json("p", text.as_bytes()).unwrap();
        prop_assert!(back.columns[0].agrees_exactly(&profile.columns[0]));
        prop_assert_eq!(back.to_json().unwrap(), text);
    }

    #[test]
    fn sums_are_exact(values in prop::collection::vec(-1e15..1e15_f64, 1..100)) {
        let mut sum = ExactSum::default();
        for v in &values {
            sum.add(*v);
        }
        for v in &values {
            sum.add(-*v);
        }
        prop_assert_eq!(sum.value(), 0.0);
        for v in &values {
            sum.add(v.trunc());
        }
        let integers: i128 = values.iter().map(|v| *v as i128).sum();
        prop_assert!((sum.value() - integers as f64).abs() <= (integers as f64).abs() * 1e-15);
    }
}

#[test]
fn a_variance_survives_a_large_mean() {
    let mut rng = Rng::new(1);
    let small: Vec<f64> = (0..10_000).map(|_| rng.normal()).collect();
    let shifted: Vec<f64> = small.iter().map(|x| x + 1e9).collect();
    let p = floats(&shifted, &[]);
    let numbers = p.numbers.unwrap();
    let want = crate::stats::variance(&shifted, 1);
    assert!((numbers.variance(1) / want - 1.0).abs() < 1e-9, "{} {want}", numbers.variance(1));
    assert!((numbers.mean() - 1e9 - crate::stats::mean(&small)).abs() < 1e-6);
}

#[test]
fn integers_at_the_ends_of_their_range() {
    let mut p = ColumnProfile::new(field(Kind::Int), None);
    p.add(&Int64Array::from(vec![i64::MIN, i64::MAX, i64::MIN, i64::MAX, 0]));
    p.seal();
    let n = p.numbers.as_ref().unwrap();
    assert_eq!(n.sum.value(), -2.0);
    assert!((n.deviation() / 9.223_372_036_854_775e18 - 1.0).abs() < 0.01);
}

/// The stated bounds: rank within 1 %, distinct within 2 % (2.5 standard errors), on several shapes and after merges.
#[test]
fn sketches_keep_their_bounds() {
    let (mut worst_rank, mut worst_distinct, mut cases) = (0.0_f64, 0.0_f64, 0);
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let n = [3_000, 50_000, 200_000, 700_000][seed as usize % 4];
        let value = |rng: &mut Rng, i: usize| match seed % 3 {
            0 => rng.normal(),
            1 => i as f64,
            _ => (rng.normal() * 2.0).exp() + 1e9,
        };
        let values: Vec<f64> = (0..n).map(|i| value(&mut rng, i)).collect();
        let parts: Vec<ColumnProfile> = values.chunks(n / 7 + 1).map(|c| floats(c, &[])).collect();
        let mut merged = parts[0].clone();
        for p in &parts[1..] {
            merged.merge(p);
        }
        let whole = floats(&values, &[]);
        // Integers of a narrow range, which are counted before they are sketched.
        let few: Vec<i64> = values.iter().map(|v| (*v * 97.0) as i64 % 40_000).collect();
        let mut counted = ColumnProfile::new(field(Kind::Int), Some(&[]));
        counted.add(&Int64Array::from(few.clone()));
        counted.seal();
        let few: Vec<f64> = few.into_iter().map(|v| v as f64).collect();
        for (profile, values) in [(&whole, &values), (&merged, &values), (&counted, &few)] {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let q = &profile.numbers.as_ref().unwrap().quantiles;
            assert_eq!(q.count(), n as u64);
            for i in 1..100 {
                let share = f64::from(i) / 100.0;
                let found = q.quantiles(&[share])[0];
                let low = sorted.partition_point(|x| *x < found) as f64 / n as f64;
                let high = sorted.partition_point(|x| *x <= found) as f64 / n as f64;
                worst_rank = worst_rank.max((low - share).max(share - high).max(0.0));
                cases += 1;
            }
            let mut unique = sorted.clone();
            unique.dedup();
            let (distinct, _) = profile.distinct.count();
            worst_distinct = worst_distinct.max((distinct / unique.len() as f64 - 1.0).abs());
        }
    }
    println!(
        "FIGURE data.sketch_bounds cases={cases} worst_rank_error={worst_rank:.5} worst_distinct_error={worst_distinct:.5}"
    );
    assert!(worst_rank <= 0.01 && worst_distinct <= 0.025, "{worst_rank} {worst_distinct}");
}

#[test]
fn heavy_hitters_are_found_among_many() {
    let mut rng = Rng::new(3);
    let values: Vec<String> = (0..60_000)
        .map(|i| if i % 10 == 0 { "often".into() } else { format!("v{}", rng.below(50_000)) })
        .collect();
    let mut merged = texts(&values[..20_000]);
    merged.merge(&texts(&values[20_000..]));
    let (top, short) = merged.distinct.top_texts();
    assert_eq!(top[0].0, "often");
    assert!(top[0].1 <= 6000 && top[0].1 + short >= 6000 && short <= 60_000 / 512, "{} {short}", top[0].1);
    let buckets = merged.distinct.buckets().unwrap();
    assert_eq!(buckets.iter().sum::<u64>(), 60_000);
    assert_eq!(buckets, texts(&values).distinct.buckets().unwrap());
}

#[test]
fn bins_agree_with_a_plain_search() {
    let mut rng = Rng::new(4);
    // From even to so lopsided that no grid fits.
    for spread in [0.0, 0.3, 3.0, 30.0] {
        let mut sample: Vec<f64> = (0..5000)
            .map(|_| if spread == 0.0 { rng.uniform() } else { (rng.normal() * spread).exp() })
            .collect();
        let edges = Histogram::edges_of(&mut sample);
        let finder = Finder::new(&edges);
        let near = edges.iter().flat_map(|e| [e.next_down(), *e, e.next_up()]);
        for x in sample.iter().copied().chain(near).chain([-1e300, 0.0, 1e300, f64::MIN, f64::MAX]) {
            assert_eq!(finder.bin(x), edges.partition_point(|e| *e < x), "{x}");
        }
    }
}

#[test]
fn other_files_are_refused() {
    for (text, want) in [
        ("", "is not a profile"),
        ("{}", "is not a profile"),
        ("[1]", "broken profile"),
        (r#"{"trainyard_profile":2,"rows":0,"columns":[]}"#, "version 2"),
        (r#"{"trainyard_profile":1,"rows":0,"columns":[],"x":1}"#, "broken profile"),
        (r#"{"trainyard_profile":1,"rows":-1,"columns":[]}"#, "broken profile"),
    ] {
        let error = Profile::from_json("f", text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(want), "{text}: {error}");
    }
}
