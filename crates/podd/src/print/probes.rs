//! A probe in one line, as kubectl tells it.

use serde_json::Value;

/// What is asked, and when.
pub(super) fn line(probe: &Value) -> String {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let number = |field: &str| probe[field].as_i64().unwrap_or(0);
    let (exec, http, tcp, grpc) = (&probe["exec"], &probe["httpGet"], &probe["tcpSocket"], &probe["grpc"]);
    let asks = if let Some(command) = exec["command"].as_array() {
        format!("exec [{}]", command.iter().map(word).collect::<Vec<_>>().join(" "))
    } else if http.is_object() {
        let scheme = http["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
        let (host, port) = (word(&http["host"]), word(&http["port"]));
        format!("http-get {scheme}://{host}:{port}/{}", word(&http["path"]).trim_start_matches('/'))
    } else if tcp.is_object() {
        format!("tcp-socket {}:{}", word(&tcp["host"]), word(&tcp["port"]))
    } else {
        format!("grpc <pod>:{} {}", word(&grpc["port"]), word(&grpc["service"])).trim_end().to_owned()
    };
    format!(
        "{asks} delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds"),
        number("timeoutSeconds"),
        number("periodSeconds"),
        number("successThreshold"),
        number("failureThreshold")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_handler_has_its_line() {
        let table = [
            (json!({"exec": {"command": ["cat", "/x"]}}), "exec [cat /x]"),
            (json!({"httpGet": {"port": "web", "path": "/h", "scheme": "HTTPS"}}), "http-get https://:web/h"),
            (json!({"tcpSocket": {"port": 80, "host": "127.0.0.1"}}), "tcp-socket 127.0.0.1:80"),
            (json!({"grpc": {"port": 9, "service": ""}}), "grpc <pod>:9"),
            (json!({"grpc": {"port": 9, "service": "s"}}), "grpc <pod>:9 s"),
        ];
        for (mut probe, asks) in table {
            probe["periodSeconds"] = json!(10);
            assert_eq!(line(&probe), format!("{asks} delay=0s timeout=0s period=10s #success=0 #failure=0"));
        }
    }
}
