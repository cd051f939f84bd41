"""Reads the page that an example leaves in its output folder."""

import html.parser


class Page(html.parser.HTMLParser):
    """The tags, links and texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.texts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def read_page(folder, *parts):
    """The page of a folder, all of whose links lead to something in it, and which has `parts`."""
    page = Page((folder / "index.html").read_text("utf8"))
    links = [link for link in page.links if link != "data:,"]
    assert links and all((folder / link).exists() for link in links)
    assert not any(link.startswith(("/", "http")) for link in links)
    assert set(parts) <= set(page.texts)
    return page
