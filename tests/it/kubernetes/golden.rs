//! What a step becomes, whole: a change to one of these files is a change to what runs in people's clusters.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::{Value, json};
use trainyard::config::{KubernetesConfig, KubernetesPool, Preset, Toleration};
use trainyard::executor::Launch;
use trainyard::executor::kubernetes::manifest::{Cluster, Objects, build};
use trainyard::model::plan::Resources;
use trainyard::model::{AttemptUid, RunId, StepSpec};

const TOKEN: &str = "bootstrap-token";

pub fn step(name: &str) -> StepSpec {
    StepSpec {
        commands: vec!["python train.py".into()],
        env: BTreeMap::from([("EPOCHS".into(), "10".into())]),
        image: Some("python:3.12-slim".into()),
        pool: Some("a100".into()),
        timeout_ms: 3_600_000,
        ..StepSpec::named(name)
    }
}

pub fn launch(spec: StepSpec) -> Launch {
    Launch {
        uid: AttemptUid::from_text("0190b2c4-7a10-7000-8000-000000000001"),
        name: "ty-abcdefghijklmnopqrst".into(),
        spec,
        number: 1,
        run: RunId::from_text("0190b2c4-0000-7000-8000-000000000002"),
        pipeline: "churn".into(),
        trusted: true,
        pool: "a100".into(),
        gpus: Vec::new(),
        agent_url: "http://127.0.0.1:1".into(),
        agent_ca: Some("the CA".into()),
        bootstrap: SecretString::from(TOKEN),
        repo_trusted: false,
        probe: false,
        handle: json!({}),
    }
}

pub fn cluster() -> Cluster {
    Cluster {
        config: KubernetesConfig {
            namespace: "trainyard-runs".into(),
            image: "registry.example/trainyard:0.1.0".into(),
            installation: None,
            agent_url: None,
            kubeconfig: None,
            context: None,
            image_pull_secrets: vec!["registry".into()],
            relist_s: 60,
            prometheus: None,
        },
        instance: "5f1c9a2b7d3e4f60".into(),
        agent_url: "https://trainyard-agents.trainyard.svc:8720".into(),
        grace_s: 30,
        pending_timeout_s: 1800,
    }
}

fn shown(objects: &Objects) -> Value {
    let mut all =
        vec![serde_json::to_value(&objects.job).unwrap(), serde_json::to_value(&objects.secret).unwrap()];
    all.extend(objects.service.iter().map(|s| serde_json::to_value(s).unwrap()));
    all.extend(objects.policy.iter().map(|p| serde_json::to_value(p).unwrap()));
    Value::Array(all)
}

/// Compares with `tests/golden/kubernetes/<name>.json`; `TRAINYARD_GOLDEN=write` writes it.
fn golden(name: &str, objects: &Objects) {
    let path = format!("{}/tests/golden/kubernetes/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = format!("{}\n", serde_json::to_string_pretty(&shown(objects)).unwrap());
    if std::env::var("TRAINYARD_GOLDEN").as_deref() == Ok("write") {
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        want == text,
        "{path} differs; look at the change, then write it with TRAINYARD_GOLDEN=write:\n{text}"
    );
}

fn gpus(gpu: u32) -> Resources {
    Resources {
        cpu_milli: Some(4000),
        memory_bytes: Some(32 << 30),
        gpu,
        shm_bytes: Some(8 << 30),
        disk_bytes: None,
    }
}

#[test]
fn manifests_are_as_recorded() {
    let made = |spec: StepSpec, pool: &KubernetesPool| build(&launch(spec), pool, &cluster()).unwrap();
    golden("cpu-step", &made(step("test"), &KubernetesPool::default()));
    let gke = KubernetesPool {
        preset: Some(Preset::Gke),
        accelerator: Some("nvidia-l4".into()),
        image_pull_secrets: vec!["registry".into(), "team".into()],
        ..KubernetesPool::default()
    };
    let on_disk = Resources { disk_bytes: Some(50 << 30), ..gpus(2) };
    golden("gpu-step", &made(StepSpec { resources: on_disk, ..step("train") }, &gke));
    let spot = KubernetesPool {
        preset: Some(Preset::Aks),
        spot: true,
        runtime_class: Some("nvidia".into()),
        priority_class: Some("training".into()),
        selector: BTreeMap::from([("team".into(), "vision".into())]),
        tolerations: vec![Toleration { key: "team".into(), value: Some("vision".into()), effect: None }],
        gpu_resource: "nvidia.com/mig-1g.10gb".into(),
        queue: Some("team-vision".into()),
        ..KubernetesPool::default()
    };
    golden(
        "spot-step",
        &made(StepSpec { resources: gpus(1), checkpoint: Some("out/ckpt".into()), ..step("train") }, &spot),
    );
    // A matrix is one Job for each member.
    let member = StepSpec { member: BTreeMap::from([("seed".into(), "2".into())]), ..step("train (seed=2)") };
    golden("seed-matrix-member", &made(StepSpec { resources: gpus(1), ..member }, &gke));
    golden("two-nodes", &made(StepSpec { resources: gpus(8), workers: 2, ..step("train") }, &gke));
}

/// Karpenter and AMD, in the few words that differ.
#[test]
fn presets_select_what_their_clouds_label() {
    let pool = KubernetesPool {
        preset: Some(Preset::Karpenter),
        accelerator: Some("a10g".into()),
        gpu_resource: "amd.com/gpu".into(),
        ..KubernetesPool::default()
    };
    let made = build(&launch(StepSpec { resources: gpus(1), ..step("train") }), &pool, &cluster()).unwrap();
    let pod = &shown(&made)[0]["spec"]["template"]["spec"];
    assert_eq!(
        pod["nodeSelector"],
        json!({"karpenter.k8s.aws/instance-gpu-name": "a10g", "karpenter.sh/capacity-type": "on-demand"})
    );
    assert_eq!(pod["containers"][0]["resources"]["limits"]["amd.com/gpu"], "1");
}

/// An untrusted head names the image: a pool's credential for private ones goes with it only where the pool says so.
#[test]
fn pull_secrets_of_a_pool_are_for_trusted_runs() {
    let mut at = cluster();
    at.config.image_pull_secrets = vec!["own".into()];
    let names = |trusted: bool, untrusted_pull_secrets: bool| -> Vec<String> {
        let pool = KubernetesPool {
            image_pull_secrets: vec!["team".into()],
            untrusted_pull_secrets,
            ..KubernetesPool::default()
        };
        let made = build(&Launch { trusted, ..launch(step("train")) }, &pool, &at).unwrap();
        let pod = made.job.spec.unwrap().template.spec.unwrap();
        pod.image_pull_secrets.unwrap().into_iter().map(|one| one.name).collect()
    };
    assert_eq!(names(true, false), ["own", "team"]);
    assert_eq!(names(false, false), ["own"]);
    assert_eq!(names(false, true), ["own", "team"]);
}

/// A pool says no before anything is made, with a sentence.
#[test]
fn a_pool_refuses_with_a_reason() {
    let pool = KubernetesPool {
        node_gpus: 4,
        max_cpu: Some("8".into()),
        max_memory: Some("64Gi".into()),
        ..KubernetesPool::default()
    };
    let with = |resources: Resources| StepSpec { resources, ..step("train") };
    let shm = Resources { memory_bytes: Some(1 << 30), shm_bytes: Some(1 << 30), ..Resources::default() };
    for (spec, words) in [
        (StepSpec { image: None, ..step("train") }, "names no image"),
        (StepSpec { image: Some("py thon".into()), ..step("train") }, "is not the name of an image"),
        (StepSpec { image: Some("-x".into()), ..step("train") }, "is not the name of an image"),
        (StepSpec { image: Some("a\nb: c".into()), ..step("train") }, "is not the name of an image"),
        (with(gpus(8)), "has 4"),
        (with(shm), "ask for more memory"),
        (with(Resources { cpu_milli: Some(-1), ..Resources::default() }), "more than 0"),
        (
            with(Resources { cpu_milli: Some(8500), ..Resources::default() }),
            "asks for 8.5 cores and pool `a100` gives 8",
        ),
        (with(Resources { memory_bytes: Some(65 << 30), ..Resources::default() }), "gives a pod 64Gi"),
    ] {
        let refused = build(&launch(spec), &pool, &cluster()).unwrap_err();
        assert!(refused.contains(words), "{refused}");
    }
}

/// No secret but the bootstrap's token, and that in the Secret alone; no forge credential, nothing of a fork's wishes (S07).
#[test]
fn the_job_holds_no_secret_and_nothing_from_outside() {
    let nasty = "x\"}],\"hostNetwork\":true,\"y\":[{\"z\":\"";
    let spec = StepSpec {
        env: BTreeMap::from([("SECRET_LIKE".into(), "hunter2-value".into())]),
        commands: vec!["echo hunter2-value".into()],
        member: BTreeMap::from([("seed".into(), nasty.into())]),
        ..step(&format!("train ({nasty})"))
    };
    let made = build(
        &Launch {
            pool: nasty.into(),
            pipeline: nasty.into(),
            trusted: false,
            ..launch(StepSpec { base: nasty.into(), ..spec })
        },
        &KubernetesPool::default(),
        &cluster(),
    )
    .unwrap();
    let job = serde_json::to_string(&made.job).unwrap();
    assert!(!job.contains(TOKEN) && !job.contains("hunter2-value"), "{job}");
    let pod = &shown(&made)[0]["spec"]["template"]["spec"];
    let keys: Vec<&str> = pod.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "automountServiceAccountToken",
            "containers",
            "enableServiceLinks",
            "imagePullSecrets",
            "initContainers",
            "restartPolicy",
            "securityContext",
            "terminationGracePeriodSeconds",
            "volumes"
        ]
    );
}
