//! `podd images` and `rmi`, over the agent's CRI socket.

use anyhow::{Context as _, bail};
use podd_cri::ImageService as _;
use podd_cri::v1::{Image, ImageSpec, ListImagesRequest, RemoveImageRequest};
use serde_json::{Value, json};

use crate::cli::{Images, Output, Rmi};
use crate::client::own;
use crate::config::Settings;
use crate::print;
use crate::print::say;

/// How many characters of an image id a table shows.
const SHORT_ID: usize = 12;

pub(super) async fn cri(settings: &Settings) -> anyhow::Result<podd_cri::client::Client> {
    own::agent_socket(settings).await?;
    let socket = settings.cri_socket();
    podd_cri::client::connect(&socket).await.with_context(|| format!("connect to {}", socket.display()))
}

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.into(), user_specified_image: image.into(), ..Default::default() })
}

pub(crate) async fn list(args: Images, settings: &Settings) -> anyhow::Result<()> {
    let cri = cri(settings).await?;
    let answer = cri
        .list_images(tonic::Request::new(ListImagesRequest::default()))
        .await
        .map_err(|s| anyhow::anyhow!("{}", s.message()))?;
    let mut images = answer.into_inner().images;
    if let Some(name) = &args.filter {
        images.retain(|image| image.repo_tags.iter().any(|tag| tag.contains(name.as_str())));
    }
    images.sort_by(|a, b| a.repo_tags.cmp(&b.repo_tags));
    if let Some(output @ (Output::Json | Output::Yaml)) = args.output {
        let list: Vec<Value> = images.iter().map(|i| json!({"id": i.id, "repoTags": i.repo_tags, "repoDigests": i.repo_digests, "size": i.size.to_string()})).collect();
        return print::value(&json!({"images": list}), output == Output::Json);
    }
    if args.quiet {
        for image in &images {
            say!("{}", image.id);
        }
        return Ok(());
    }
    print::text(&print::plain(&rows(&images)));
    Ok(())
}

fn rows(images: &[Image]) -> Vec<Vec<String>> {
    let mut rows = vec![["REPOSITORY", "TAG", "IMAGE ID", "SIZE"].map(str::to_owned).to_vec()];
    for image in images {
        let hex = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        let id = hex.get(..SHORT_ID).unwrap_or(hex).to_owned();
        let size = bytes(image.size);
        let named: Vec<(String, String)> = image
            .repo_tags
            .iter()
            .map(|tag| {
                tag.rsplit_once(':').map_or((tag.clone(), String::new()), |(name, tag)| (name.into(), tag.into()))
            })
            .collect();
        if named.is_empty() {
            let name = image.repo_digests.first().and_then(|d| d.split_once('@')).map_or("<none>", |(name, _)| name);
            rows.push(vec![name.into(), "<none>".into(), id.clone(), size.clone()]);
        }
        rows.extend(named.into_iter().map(|(name, tag)| vec![name, tag, id.clone(), size.clone()]));
    }
    rows
}

pub(crate) async fn remove(args: Rmi, settings: &Settings) -> anyhow::Result<()> {
    let cri = cri(settings).await?;
    for image in &args.images {
        let status = cri
            .image_status(tonic::Request::new(podd_cri::v1::ImageStatusRequest { image: spec(image), verbose: false }))
            .await
            .map_err(|s| anyhow::anyhow!("{}", s.message()))?;
        let Some(found) = status.into_inner().image else { bail!("there is no image {image}") };
        cri.remove_image(tonic::Request::new(RemoveImageRequest { image: spec(image) }))
            .await
            .map_err(|s| anyhow::anyhow!("{}", s.message()))?;
        for tag in &found.repo_tags {
            say!("untagged {tag}");
        }
        say!("deleted {}", found.id);
    }
    Ok(())
}

/// A size as people read it.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: &[&str] = &["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut amount = count as f64;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_powers_of_a_thousand() {
        for (count, want) in
            [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (7_340_032_000, "7.3 GB")]
        {
            assert_eq!(bytes(count), want);
        }
    }

    #[test]
    fn an_image_has_a_row_for_each_tag() {
        let image = Image {
            id: "sha256:0123456789abcdef".into(),
            repo_tags: vec!["localhost:5000/a:1".into(), "b:2".into()],
            size: 5,
            ..Default::default()
        };
        let rows = rows(&[image]);
        assert_eq!(rows[1], ["localhost:5000/a", "1", "0123456789ab", "5 B"]);
        assert_eq!(rows[2], ["b", "2", "0123456789ab", "5 B"]);
    }
}
