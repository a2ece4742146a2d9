//! Requests and limits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;

use crate::field::FieldError;
use crate::qos;
use crate::quantity::Quantity;

type List = BTreeMap<String, RawQuantity>;

/// What a pod says for itself: its containers ask for no more together, and none is limited less than the pod.
pub(super) fn pod(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    let Some(own) = &spec.resources else { return };
    let at = format!("{path}.resources");
    for (list, amounts) in [("limits", &own.limits), ("requests", &own.requests)] {
        for name in amounts.iter().flat_map(BTreeMap::keys).filter(|name| !qos::OF_PODS.contains(&name.as_str())) {
            errors.push(FieldError::not_supported(format!("{at}.{list}.{name}"), name.as_str(), &qos::OF_PODS));
        }
    }
    resources(own, &at, errors);
    let amount = |raw: &RawQuantity| Quantity::parse(&raw.0).ok();
    for name in qos::OF_PODS {
        let asked = qos::containers_request(spec, name);
        if let Some(raw) = own.requests.as_ref().and_then(|list| list.get(name))
            && amount(raw).is_some_and(|whole| asked > whole)
        {
            let sum = if name == "memory" { asked.binary() } else { asked.to_string() };
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.push(FieldError::invalid(format!("{at}.requests.{name}"), raw.0.clone(), detail));
        }
        let Some(most) = own.limits.as_ref().and_then(|list| list.get(name)) else { continue };
        for (n, one) in spec.containers.iter().enumerate() {
            let limits = one.resources.as_ref().and_then(|wanted| wanted.limits.as_ref());
            if let Some(raw) = limits.and_then(|list| list.get(name))
                && amount(raw) > amount(most)
            {
                let detail = format!("must be less than or equal to pod limits of {}", most.0);
                let at = format!("{path}.containers[{n}].resources.limits.{name}");
                errors.push(FieldError::invalid(at, raw.0.clone(), detail));
            }
        }
    }
}

pub(super) fn resources(wanted: &ResourceRequirements, path: &str, errors: &mut Vec<FieldError>) {
    let empty = List::new();
    let limits = wanted.limits.as_ref().unwrap_or(&empty);
    let requests = wanted.requests.as_ref().unwrap_or(&empty);
    amounts(limits, &format!("{path}.limits"), errors);
    // A request that defaulted to its limit was not written by anybody: one objection is enough.
    let written = requests.iter().filter(|(name, raw)| limits.get(*name) != Some(raw));
    amounts(written, &format!("{path}.requests"), errors);
    for (name, request) in requests {
        let Some(limit) = limits.get(name) else {
            continue;
        };
        if let (Ok(asked), Ok(most)) = (Quantity::parse(&request.0), Quantity::parse(&limit.0))
            && asked > most
        {
            errors.push(FieldError::invalid(
                format!("{path}.requests"),
                request.0.clone(),
                format!("must be less than or equal to {name} limit of {}", limit.0),
            ));
        }
    }
}

fn amounts<'a>(
    list: impl IntoIterator<Item = (&'a String, &'a RawQuantity)>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    for (name, raw) in list {
        let path = format!("{path}.{name}");
        amount(&raw.0, &path, errors);
        if let Ok(quantity) = Quantity::parse(&raw.0)
            && name == "cpu"
            && !quantity.is_whole_milli()
        {
            errors.push(FieldError::invalid(path, raw.0.clone(), "must not have precision finer than 1m"));
        }
    }
}

/// A quantity that may not be negative.
pub(super) fn amount(text: &str, path: &str, errors: &mut Vec<FieldError>) {
    match Quantity::parse(text) {
        Err(error) => errors.push(FieldError::invalid(path, text, error.to_string())),
        Ok(quantity) if quantity.is_negative() => {
            errors.push(FieldError::invalid(path, text, "must be greater than or equal to 0"));
        }
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_stay_within_what_their_pod_says() {
        let table = [
            (json!({"requests": {"cpu": "1500m"}, "limits": {"memory": "64Mi"}}), ""),
            (
                json!({"requests": {"cpu": "1"}}),
                "spec.resources.requests.cpu: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 1500m",
            ),
            (
                json!({"limits": {"memory": "32Mi"}}),
                "spec.containers[1].resources.limits.memory: Invalid value: \"64Mi\": must be less than or equal to pod limits of 32Mi",
            ),
            (
                json!({"limits": {"ephemeral-storage": "1Gi"}}),
                "spec.resources.limits.ephemeral-storage: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"memory\"",
            ),
            (
                json!({"requests": {"cpu": "3"}, "limits": {"cpu": "2"}}),
                "spec.resources.requests: Invalid value: \"3\": must be less than or equal to cpu limit of 2",
            ),
        ];
        for (own, want) in table {
            let spec: PodSpec = serde_json::from_value(json!({"resources": own, "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "1"}}},
                {"name": "b", "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "64Mi"}}}]}))
            .expect("a spec");
            let mut errors = Vec::new();
            pod(&spec, "spec", &mut errors);
            let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(found.join("; "), want, "{own}");
        }
    }
}
