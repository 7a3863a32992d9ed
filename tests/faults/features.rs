//! Features beside the baseline's, for real: a push, a pull request that changes the transform, and what its comment says.

use trainyard::model::Sha;
use trainyard::sandbox::{NewPull, WRITER};

use super::yard::{Yard, until};

const PIPELINE: &str = "version: 1
name: churn
features:
  - name: encode
    command: python3 features.py
    sample: sample.csv
    diff: {against: baseline, tolerance: {share: 1%}}
train: echo trained
";

/// `more`: assignments into the features `f` of a row `r`.
fn transform(more: &str) -> String {
    format!(
        "import csv, os\n\
         rows = list(csv.DictReader(open(os.environ['IN'])))\n\
         out = []\n\
         for r in rows:\n    f = {{'city': r['city'], 'charge': float(r['charge']), 'share': float(r['charge']) / 100}}\n{more}    out.append(f)\n\
         with open(os.environ['OUT'], 'w', newline='') as file:\n    table = csv.DictWriter(file, out[0].keys()); table.writeheader(); table.writerows(out)\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_says_which_features_it_changes() {
    let mut yard = Yard::new().await;
    yard.daemon.start().await;
    let sample: String = (0..50).map(|i| format!("{},{}\n", ["Ulm", "Kiel"][i % 2], 10 + i)).collect();
    std::fs::write(yard.tree.join("sample.csv"), format!("city,charge\n{sample}")).unwrap();
    std::fs::write(yard.tree.join("features.py"), transform("")).unwrap();
    let base = yard.push("main", PIPELINE).await;
    let ended = async |sha: Sha| {
        until("the end of a run", 90, async || {
            yard.statuses(&sha).iter().rfind(|s| s.state != "pending").map(|s| s.state.clone())
        })
        .await
    };
    assert_eq!(ended(base).await, "success");

    yard.git(&["checkout", "-q", "-b", "wider"]).await;
    let more = "    f['charge'] += 0.5 * (r['city'] == 'Ulm')\n    f['share'] *= 1.001\n    f['log'] = 1\n    del f['city']\n";
    std::fs::write(yard.tree.join("features.py"), transform(more)).unwrap();
    let head = yard.push("wider", PIPELINE).await;
    let new = NewPull {
        head_repo: None,
        head_branch: "wider".into(),
        base_branch: "main".into(),
        title: "Wider".into(),
        author: WRITER.into(),
        draft: false,
    };
    let number = yard.sandbox.open_pull(&yard.repo, new).await.unwrap();
    assert_eq!(ended(head).await, "success", "what is shown does not fail");
    let body = until("the comment with features", 60, async || {
        let comments = yard.sandbox.comments(&yard.repo, number);
        comments.iter().filter_map(|c| c.versions.last().cloned()).find(|b| b.contains("<b>Features</b>"))
    })
    .await;
    for told in [
        "<b>Features</b>: 1 set, good, 1 changed, 1 added, 1 removed, 1 equal",
        "`encode` passed: 50 rows, 3 columns, against main at ",
        "the merge-base",
        "| `charge` | **changed** | 25 (50.00 %) | 0.5 |",
        "| `log` | **added** |",
        "| `city` | **removed** |",
        "| `share` | within tolerance | – | ",
    ] {
        assert!(body.contains(told), "{told:?} is not in\n{body}");
    }
    assert!(!body.contains("Kiel"), "no value of the data is told: {body}");
    println!("FIGURE features.pull_request features=5 told=5");
}
