"""Sheet music: the layout of a score on staves, and its rendering as MEI, SVG and PNG."""
