//! Requests and limits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;

use crate::field::FieldError;
use crate::quantity::Quantity;

type List = BTreeMap<String, RawQuantity>;

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
