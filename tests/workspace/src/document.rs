//! Reading Markdown: tables and links.

/// The rows of the first table below a heading, without its head; cells are trimmed and lose their backticks.
pub fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let begin = document
        .lines()
        .position(|line| line.trim_start_matches('#').trim() == heading && line.starts_with('#'));
    let begin = begin.unwrap_or_else(|| panic!("there is no heading {heading:?}"));
    let lines = document
        .lines()
        .skip(begin + 1)
        .skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|line| line.trim_matches('|').split('|').map(cell).collect())
        .collect()
}

fn cell(text: &str) -> String {
    text.trim().replace('`', "")
}

/// Targets of the links in a document, those inside code left out.
pub fn links(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if !in_code {
            let starts = line
                .match_indices("](")
                .map(|(at, mark)| &line[at + mark.len()..]);
            found.extend(
                starts
                    .filter_map(|rest| rest.split_once(')'))
                    .map(|(target, _)| target.to_owned()),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_below_its_heading() {
        let document =
            "# A\n| x |\n|---|\n| no |\n## B\ntext\n\n| x | y |\n|---|---|\n| `1` | 2, `3` |\n\n| z |\n";
        assert_eq!(table(document, "B"), [["1", "2, 3"]]);
    }

    #[test]
    fn links_in_code_are_left_out() {
        let document = "a [b](c.md#d) and [e](https://f)\n```\n[g](h)\n```\n";
        assert_eq!(links(document), ["c.md#d", "https://f"]);
    }
}
