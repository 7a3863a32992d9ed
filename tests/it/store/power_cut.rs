//! F03 and F07 on real file systems: a disk that loses its power, and one that is full. Root only.
//!
//! A power cut without special kernel parts: the database lies on ext4 on a loop device. What was not synced stays in the page
//! cache above the loop device, so a copy of the image file is the disk as a power cut would leave it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sqlx::{Connection, Row};
use trainyard::store::{OpenOptions, Store, StoreError, Synchronous};

use super::fixture::delivery;

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|err| {
        panic!("cannot run {program} ({err}): run make setup");
    });
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?} as root: {said}");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A mounted file system; unmounted, and its loop device freed, however the test ends.
struct Mount {
    at: PathBuf,
    device: Option<String>,
}

impl Mount {
    fn image(image: &Path, at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let device = run("losetup", &["--find", "--show", text(image)]);
        let mount = Self { at, device: Some(device.clone()) };
        run("mount", &["-t", "ext4", &device, text(&mount.at)]);
        mount
    }
    fn tmpfs(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs", text(&at)]);
        Self { at, device: None }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let quiet = |program: &str, args: &[&str]| {
            let _ = Command::new(program).args(args).stderr(Stdio::null()).status();
        };
        quiet("umount", &["--lazy", text(&self.at)]);
        if let Some(device) = &self.device {
            quiet("losetup", &["--detach", device]);
        }
    }
}

fn options(dir: &Path, synchronous: Synchronous) -> OpenOptions {
    OpenOptions { synchronous, ..OpenOptions::sqlite(dir.join("trainyard.db")) }
}

/// Copies the disk as it was at one moment. A copy takes a while, and the kernel writes back on its own when it likes: a copy
/// that no longer equals the disk when it is done is half of one moment and half of another, and is made again.
fn snapshot(image: &Path, copy: &Path) {
    for _ in 0..50 {
        run("cp", &["--sparse=always", text(image), text(copy)]);
        if Command::new("cmp").args(["-s", text(image), text(copy)]).status().unwrap().success() {
            return;
        }
    }
    panic!("the disk never stood still long enough to be copied");
}

/// Acknowledges deliveries in bursts and cuts the power after each burst. Returns how many acknowledged ones were lost, over
/// all cuts; every copy must be sound.
async fn cut(cuts: u32, synchronous: Synchronous) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0", text(&image)]);
    let disk = Mount::image(&image, dir.path().join("disk"));
    let store = Store::open(&options(&disk.at, synchronous)).await.unwrap();
    run("sync", &["-f", text(&disk.at)]);

    let (mut acknowledged, mut lost) = (Vec::new(), 0);
    for cut in 0..cuts {
        // Bursts of 1 to 7 at once: single commits and grouped ones.
        let burst = (0..=cut % 7).map(|n| format!("{cut}-{n}"));
        let new: Vec<_> = burst.map(|id| delivery(&id, id.repeat(100).as_bytes())).collect();
        acknowledged.extend(new.iter().map(|new| new.id.clone()));
        for done in futures_util::future::join_all(new.into_iter().map(|new| store.deliver(new))).await {
            done.unwrap();
        }
        let copy = dir.path().join("copy.img");
        snapshot(&image, &copy);

        let after = Mount::image(&copy, dir.path().join(format!("after{cut}")));
        let path = after.at.join("trainyard.db");
        let mut raw =
            sqlx::SqliteConnection::connect_with(&sqlx::sqlite::SqliteConnectOptions::new().filename(&path))
                .await
                .unwrap();
        let sound: String = sqlx::query("PRAGMA integrity_check").fetch_one(&mut raw).await.unwrap().get(0);
        assert_eq!(sound, "ok", "cut {cut} under {synchronous:?}");
        raw.close().await.unwrap();
        let survivor = Store::open(&options(&after.at, Synchronous::Full)).await.unwrap();
        for id in &acknowledged {
            let body = survivor.delivery_body(id).await.unwrap();
            let kept = body.is_some() && survivor.delivery(id).await.unwrap().is_some();
            lost += u64::from(!kept);
        }
        survivor.close().await;
    }
    store.close().await;
    lost
}

#[tokio::test]
async fn acknowledged_deliveries_survive_a_power_cut() {
    const CUTS: u32 = 30;
    let lost = cut(CUTS, Synchronous::Full).await;
    // The control: without a sync at each commit, the same test must lose something.
    let control = cut(5, Synchronous::Normal).await;
    println!("FAULT F03 n={CUTS} lost={lost} control_lost={control}");
    assert_eq!(lost, 0);
    assert!(control > 0, "the test cannot fail, so it proves nothing");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Mount::tmpfs(dir.path().join("disk"), "16m");
    let store = Store::open(&options(&disk.at, Synchronous::Full)).await.unwrap();
    let first = delivery("first", b"{}");
    let mut acknowledged = vec![first.id.clone()];
    store.deliver(first).await.unwrap();

    let ballast = disk.at.join("ballast");
    let mut refused = 0;
    for round in 0..3 {
        // Fill what is left, to the last byte.
        let _ = std::io::copy(&mut std::io::repeat(1), &mut std::fs::File::create(&ballast).unwrap());
        for n in 0..200 {
            // Random bodies: they do not shrink.
            let body: Vec<u8> = std::iter::repeat_with(rand::random).take(20_000).collect();
            let new = delivery(&format!("{round}-{n}"), &body);
            let id = new.id.clone();
            match store.deliver(new).await {
                Ok(_) => acknowledged.push(id),
                Err(StoreError::Unavailable(_)) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(matches!(store.check().await, Err(StoreError::Unavailable(_))), "not ready");
        assert_eq!(store.list_deliveries(None, 1000).await.unwrap().len(), acknowledged.len(), "reads go on");
        std::fs::remove_file(&ballast).unwrap();
        store.check().await.expect("ready again without a restart");
        let next = delivery(&format!("{round}-after"), b"{}");
        acknowledged.push(next.id.clone());
        store.deliver(next).await.expect("the disk has room again");
    }
    store.close().await;
    let store = Store::open(&options(&disk.at, Synchronous::Full)).await.unwrap();
    let mut lost = 0;
    for id in &acknowledged {
        lost += u32::from(store.delivery_body(id).await.unwrap().is_none());
    }
    store.close().await;
    println!("FAULT F07 n=3 refused={refused} acknowledged={} lost={lost}", acknowledged.len());
    assert!(refused > 0 && lost == 0);
}
