"""What was chosen and why, to look at: contact sheet, timeline, HTML report."""

from ntlbg.report.contact_sheet import contact_sheet
from ntlbg.report.evidence import Evidence
from ntlbg.report.html_report import ReportQuestion, VideoFacts, write_report
from ntlbg.report.timeline import timeline_svg


__all__ = ["Evidence", "ReportQuestion", "VideoFacts", "contact_sheet", "timeline_svg", "write_report"]
