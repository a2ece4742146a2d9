//! Against a real registry: Debian's `docker-registry`, on loopback.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use podd_image::Digest;
use serde_json::json;
use tempfile::TempDir;

use crate::packed::{INDEX, MANIFEST, Packed, Packing, descriptor, noise, tar, tar_of};
use crate::{Place, content, eventually};

pub(crate) struct Distribution {
    address: SocketAddr,
    child: Child,
    client: reqwest::Client,
    _directory: TempDir,
}

impl Distribution {
    async fn start() -> Distribution {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        Distribution::serve(directory, &data, "").await
    }

    /// Serves what lies in `data`. `tls` is what the configuration says of certificates.
    pub(crate) async fn serve(directory: TempDir, data: &Path, tls: &str) -> Distribution {
        let address = {
            // The registry does not tell which port it got, so it is given one that was free a moment ago.
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let data = data.display();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {data}}}\nhttp:\n  addr: {address}\n{tls}"
        );
        let file = directory.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry must be installed: apt-get install docker-registry");
        // It fails if another test was first, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let registry = Distribution { address, child, client, _directory: directory };
        let up = || std::net::TcpStream::connect(address).ok().map(drop);
        eventually("docker-registry listens", up).await;
        registry
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    async fn put_blob(&self, repository: &str, bytes: &[u8]) {
        let url = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let started = self.client.post(url).send().await.unwrap();
        assert_eq!(started.status(), 202);
        let location = started.headers()["location"].to_str().unwrap();
        let url = format!("{location}&digest={}", Digest::of(bytes));
        let ended = self.client.put(url).body(bytes.to_vec()).send().await.unwrap();
        assert_eq!(ended.status(), 201, "{}", ended.text().await.unwrap());
    }

    async fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.address);
        let put = self.client.put(url).header("content-type", media_type).body(bytes.to_vec());
        let answer = put.send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    pub(crate) async fn push(&self, repository: &str, tag: &str, image: &Packed) {
        for blob in image.blobs() {
            self.put_blob(repository, blob).await;
        }
        self.put_manifest(repository, tag, MANIFEST, &image.manifest).await;
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn images_of_a_real_registry_are_pulled_by_tag_digest_and_index() {
    let registry = Distribution::start().await;
    let layers = [tar(&[("low", "low")]), tar_of(&[("noise", &noise(3_000_000))])];
    let image = Packed::new(&layers, Packing::Gzip);
    registry.push("team/app", "1", &image).await;
    let mut entry = descriptor(MANIFEST, &image.manifest);
    let host = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    entry["platform"] = json!({"os": "linux", "architecture": host});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    registry.put_manifest("team/app", "multi", INDEX, index.as_bytes()).await;

    let place = Place::new();
    let pulled = place.pull(&registry.name("team/app:1")).await.unwrap();
    assert_eq!((pulled.id, pulled.manifest), (image.id(), image.digest()));
    assert_eq!(content(&pulled, "low").as_deref(), Some("low"));
    assert_eq!(fs::read(pulled.layers[0].join("noise")).unwrap(), noise(3_000_000));
    for name in ["team/app:multi".to_owned(), format!("team/app@{}", image.digest())] {
        assert_eq!(place.pull(&registry.name(&name)).await.unwrap().id, image.id(), "{name}");
    }
    let error = place.pull(&registry.name("team/app:2")).await.unwrap_err();
    assert_eq!(error.kind(), podd_image::ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("MANIFEST_UNKNOWN"), "{error}");
}
