//! Arguments of the commands about objects.

use clap::Args;

use super::{Namespace, Output, duration};
use crate::kinds;

/// Manifests that are applied, or compared.
#[derive(Args, Debug)]
pub(crate) struct Manifests {
    /// Manifest: a file, a directory, a URL, or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Read directories with all that is below them
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Only the objects of the files with these labels; with --prune also: only such objects are deleted
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(crate) selector: Option<String>,
    /// Take over fields that another manager owns
    #[arg(long)]
    pub(crate) force_conflicts: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) manifests: Manifests,
    /// Check and show what would happen, change nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "server", value_parser = ["server", "client", "none"])]
    pub(crate) dry_run: Option<String>,
    /// Wait until the pods are Ready (or have succeeded)
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) wait: bool,
    /// How long to wait, in seconds or as 1m30s; 0 is for ever
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub(crate) timeout: std::time::Duration,
    /// Delete and make anew what cannot be changed otherwise (no claims, volumes or namespaces)
    #[arg(long)]
    pub(crate) replace: bool,
    /// Delete what was applied before and the files don't name any more; says which with -l or --applyset
    #[arg(long)]
    pub(crate) prune: bool,
    /// The apply-set that the objects are (KEP-3659): NAME or secret/NAME, or configmap/NAME; with --prune
    #[arg(long, value_name = "NAME", conflicts_with = "selector")]
    pub(crate) applyset: Option<String>,
    /// Output format
    #[arg(short = 'o', long, value_enum)]
    pub(crate) output: Option<Output>,
}

#[derive(Args, Debug)]
pub(crate) struct Diff {
    #[command(flatten)]
    pub(crate) manifests: Manifests,
}

#[derive(Args, Debug)]
pub(crate) struct Why {
    /// The pod: NAME or pod/NAME
    pub(crate) pod: String,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// How many of the last lines of a failing container's log are told
    #[arg(long, default_value_t = 10, value_name = "LINES")]
    pub(crate) tail: u16,
}

#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// What to delete: KIND NAME..., or KIND/NAME...
    #[arg(value_name = "KIND NAME")]
    pub(crate) targets: Vec<String>,
    /// Manifest whose objects to delete
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Read directories with all that is below them
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Seconds between the stop signal and the kill; 0 means 1 unless --force is said
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) grace_period: Option<i64>,
    /// Kill at once (with --grace-period=0)
    #[arg(long)]
    pub(crate) force: bool,
    /// Delete every object of the kind
    #[arg(long)]
    pub(crate) all: bool,
    /// Delete the objects with these labels
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<String>,
    /// Don't object to what is not there
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    /// Return when the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) wait: bool,
    /// How long to wait; 0 is for ever
    #[arg(long, default_value = "0", value_parser = duration)]
    pub(crate) timeout: std::time::Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    /// What to show: KIND, KIND NAME..., or KIND/NAME...
    #[arg(required = true, value_name = "KIND [NAME]")]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<String>,
    /// Only objects with these field values
    #[arg(long)]
    pub(crate) field_selector: Option<String>,
    /// Output format
    #[arg(short = 'o', long, value_enum)]
    pub(crate) output: Option<Output>,
    /// Go on showing changes
    #[arg(short = 'w', long)]
    pub(crate) watch: bool,
    /// Leave out the column titles
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Show the labels in a column
    #[arg(long)]
    pub(crate) show_labels: bool,
    /// Don't object to what is not there
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

impl Get {
    /// Whether `all` was asked for, which may come to mean more kinds than one.
    pub(crate) fn all_kinds(&self) -> bool {
        self.targets.first().is_some_and(|word| word == kinds::ALL)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Describe {
    /// What to describe: KIND, KIND NAME..., or KIND/NAME...
    #[arg(required = true, value_name = "KIND [NAME]")]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Only objects with these labels
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// The field: pod, pod.spec, pod.spec.containers.livenessProbe
    pub(crate) field: String,
    /// With all fields below it
    #[arg(long)]
    pub(crate) recursive: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Wait {
    /// What to wait for: KIND NAME..., or KIND/NAME...
    #[arg(value_name = "KIND NAME")]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// condition=NAME[=VALUE], delete, create, or jsonpath={.path}[=VALUE]
    #[arg(long = "for", value_name = "WHAT")]
    pub(crate) condition: String,
    /// How long to wait; 0 asks once
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) timeout: std::time::Duration,
    /// The objects with these labels
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<String>,
    /// Every object of the kind
    #[arg(long)]
    pub(crate) all: bool,
}
