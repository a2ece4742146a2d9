//! HTTPS: whom the client trusts, and that it does not go on without.

use std::path::{Path, PathBuf};
use std::process::Command;

use podd_image::{Config, ErrorKind, Tls};

use crate::distribution::Distribution;
use crate::packed::{Packed, Packing};
use crate::{Place, config, content};

/// Where certificates and the registry's data lie, for the inner half of the test.
const INSIDE: &str = "PODD_IMAGE_SECURE";
const HOST: &str = "registry.test";

/// The test runs itself again where a name leads to loopback: in namespaces of its own, with another `/etc/hosts`.
#[tokio::test]
async fn a_registry_over_https_is_believed_by_its_certificate_alone() {
    if let Some(directory) = std::env::var_os(INSIDE) {
        return inside(&PathBuf::from(directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    for (name, host) in [("good", HOST), ("other", HOST), ("misnamed", "elsewhere.test")] {
        certificate(directory.path(), name, host);
    }
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, format!("127.0.0.1 localhost {HOST}\n")).unwrap();
    let script = r#"ip link set lo up && mount --bind "$1" /etc/hosts && exec "$2" --exact "$3" --nocapture"#;
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "sh", "-euc", script, "sh"])
        .arg(&hosts)
        .arg(std::env::current_exe().unwrap())
        .arg("secure::a_registry_over_https_is_believed_by_its_certificate_alone")
        .env(INSIDE, directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

fn certificate(directory: &Path, name: &str, host: &str) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", &format!("/CN={host}"), "-addext", &format!("subjectAltName=DNS:{host}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(directory.join(format!("{name}.key")))
        .arg("-out")
        .arg(directory.join(format!("{name}.pem")))
        .output()
        .expect("openssl must be installed: apt-get install openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn inside(directory: &Path) {
    let data = directory.join("data");
    let image = Packed::of(&["secret"], Packing::Gzip);
    // Filled over plain HTTP, which needs no certificate.
    let plain = Distribution::serve(tempfile::tempdir().unwrap(), &data, "").await;
    plain.push("app", "1", &image).await;
    drop(plain);
    let tls = |name: &str| {
        let path = |end: &str| directory.join(format!("{name}.{end}")).display().to_string();
        format!("  tls:\n    certificate: {}\n    key: {}\n", path("pem"), path("key"))
    };
    let trusting = |name: &str| Config { ca_file: directory.join(format!("{name}.pem")), ..config() };
    let serve = |name: &str| {
        let tls = tls(name);
        let data = data.clone();
        async move { Distribution::serve(tempfile::tempdir().unwrap(), &data, &tls).await }
    };

    let good = serve("good").await;
    let name = format!("{HOST}:{}/app:1", good.port());
    let place = Place::with(trusting("good"));
    let pulled = place.pull(&name).await.unwrap();
    assert_eq!(content(&pulled, "0").as_deref(), Some("secret"));

    // What one registry's own settings trust, and that they are its alone.
    let host = name.split('/').next().unwrap().to_owned();
    let own = |host: &str, tls: Tls| Config { tls: [(host.to_owned(), tls)].into(), ..trusting("other") };
    let ca = Tls { ca_file: Some(directory.join("good.pem")), insecure_skip_verify: false };
    let skip = Tls { ca_file: None, insecure_skip_verify: true };
    for (case, config) in [("its certificate", own(&host, ca)), ("whatever it says", own(&host, skip.clone()))] {
        let place = Place::with(config);
        let pulled = place.pull(&name).await.expect(case);
        assert_eq!(content(&pulled, "0").as_deref(), Some("secret"), "{case}");
    }
    let error = Place::with(own("else.test", skip)).pull(&name).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    let misnamed = serve("misnamed").await;
    let misnamed_name = format!("{HOST}:{}/app:1", misnamed.port());
    let plain = Config { insecure_registries: [format!("{HOST}:{}", good.port())].into(), ..trusting("good") };
    for (case, config, name, kind, reason) in [
        ("a stranger's certificate", trusting("other"), &name, ErrorKind::Unavailable, "certificate"),
        ("a certificate of another name", trusting("misnamed"), &misnamed_name, ErrorKind::Unavailable, "certificate"),
        ("no certificates at all", trusting("hosts"), &name, ErrorKind::Internal, "read certificates"),
        ("plain HTTP to it", plain, &name, ErrorKind::Unavailable, "400"),
    ] {
        let place = Place::with(config);
        let error = place.pull(name).await.expect_err(case);
        assert_eq!(error.kind(), kind, "{case}: {error}");
        assert!(error.to_string().contains(reason), "{case}: {error}");
        place.check_nothing_stays(case).await;
    }
}
