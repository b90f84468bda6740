"""The engraving model: what a score looks like on paper, as MEI, SVG and PNG."""
