//! A dashboard in front of GitLab says what GitLab says: `#7` would be an issue there.

use std::sync::Arc;

use trainyard::config::Config;
use trainyard::forge::Forges;
use trainyard::http::app::router;
use trainyard::store::tokens::Scope;

use super::Dashboard;

#[tokio::test]
async fn gitlab_has_merge_requests() {
    let mut at = Dashboard::new(true).await;
    let token = at.dir.path().join("token").display().to_string();
    let text = format!(
        "data_dir = {:?}\npublic_url = \"http://dash.test\"\n[forge.github]\nkind = \"gitlab\"\nurl = \"https://forge.test\"\n\
         token = {{ file = {token:?} }}\n[[forge.github.hook]]\nid = \"main\"\nsecrets = [{{ file = {token:?} }}]\nowner = \"ada\"\n",
        at.dir.path().join("data").display().to_string(),
    );
    let config = Config::parse(&text, |_| None).unwrap();
    at.app.forges = Forges::connect(&config).unwrap();
    at.app.config = Arc::new(config);
    at.router = router(at.app.clone());
    let admin = at.token("words", Scope::Admin, None).await;
    let none = at.get("/deliveries", &admin).await.text();
    assert!(none.contains("<code>/hooks/gitlab/main</code>"), "{none}");

    let seeded = at.seed().await;
    for (path, words) in [
        ("/".to_owned(), &["<span>Merge request</span>"][..]),
        ("/repos/ada/churn".to_owned(), &["Open merge requests", ">!7</a>"]),
        ("/pulls/7/ada/churn".to_owned(), &["<title>!7 Use a larger", "<span class=\"muted\">!7</span>"]),
        (format!("/runs/{}", seeded.candidate), &[">!7</a>", "Metrics for !7"]),
        ("/?pull=!7".to_owned(), &["Use a larger learning rate"]),
    ] {
        let page = at.get(&path, &admin).await.text();
        for words in words {
            assert!(page.contains(words), "{path} lacks {words:?}:\n{page}");
        }
        assert!(!page.contains("#7") && !page.to_lowercase().contains("pull request"), "{path}:\n{page}");
    }
}
