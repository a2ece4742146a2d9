//! Arguments of the commands about images.

use clap::{Args, Subcommand};

use super::Output;

#[derive(Args, Debug)]
pub(crate) struct Pull {
    /// The image
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
    /// USER:PASSWORD for the registry
    #[arg(long, value_name = "USER:PASSWORD")]
    pub(crate) creds: Option<String>,
    /// Print the image id only
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Images {
    /// Only images of this name
    pub(crate) filter: Option<String>,
    /// Output format
    #[arg(short = 'o', long, value_enum)]
    pub(crate) output: Option<Output>,
    /// Image ids only
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Rmi {
    /// Names or ids
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Image {
    #[command(subcommand)]
    pub(crate) what: ImageWhat,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ImageWhat {
    /// Remove images that have no name and that nobody uses
    Prune(ImagePrune),
}

#[derive(Args, Debug)]
pub(crate) struct ImagePrune {
    /// Also images that have a name, if no container and no pod uses them
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Load {
    /// The archive, or - for standard input, which is the default
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// The archive, or - for standard input
    #[arg(short = 'i', long = "input", value_name = "FILE", conflicts_with = "file")]
    pub(crate) input: Option<String>,
    /// Don't show progress
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}
