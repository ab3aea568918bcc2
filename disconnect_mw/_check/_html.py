from ._evidence import Report


def to_html(report: Report) -> str:
    return ""
