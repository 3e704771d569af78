"""The dashboard's style sheet, light and dark by variables, without external fonts or scripts."""

from __future__ import annotations

THEME = "edgec_theme"
"""The cookie that stores a browser's choice."""

CSS = """
:root { --bg:#f5f6f8; --card:#fff; --line:#e3e6eb; --ink:#151a22; --soft:#566070; --faint:#667082;
  --accent:#0b6bcb; --accent-soft:#e3effb; --good:#0f7553; --good-soft:#e0f4ec; --bad:#c4321f; --bad-soft:#fce8e5;
  --warn:#8a5c00; --warn-soft:#fdf1d6; --idle:#5c6575; --idle-soft:#eceff3; --shadow:0 1px 2px rgba(16,24,40,.06); }
body.body--dark { --bg:#0e1116; --card:#161b22; --line:#272e38; --ink:#e8ecf2; --soft:#a3adbc; --faint:#8a95a6;
  --accent:#5aa9f7; --accent-soft:#13293f; --good:#3fcf96; --good-soft:#10291f; --bad:#ff7b6b; --bad-soft:#351815;
  --warn:#e7b549; --warn-soft:#2f2611; --idle:#96a0b0; --idle-soft:#20262f; --shadow:none; }
body, body.body--dark { background:var(--bg); color:var(--ink);
  font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif; font-size:14px; line-height:1.5; }
.nicegui-content { padding:0 !important; gap:0 !important; width:100%; }
.nicegui-html, .nicegui-content > * { max-width:100%; }
a { color:inherit; text-decoration:none; }
a:focus-visible, button:focus-visible, [tabindex]:focus-visible { outline:2px solid var(--accent); outline-offset:2px; }
.e-head { background:var(--card) !important; color:var(--ink) !important; border-bottom:1px solid var(--line);
  box-shadow:none !important; padding:0 16px !important; height:56px; display:flex; align-items:center; gap:8px;
  flex-wrap:nowrap !important; }
.e-brand { display:flex; align-items:center; gap:9px; font-weight:650; font-size:16px; letter-spacing:-.01em;
  margin-right:18px; white-space:nowrap; }
.e-brand svg { width:22px; height:22px; color:var(--accent); }
.e-nav { display:flex; gap:2px; }
.e-nav a { padding:7px 12px; border-radius:7px; color:var(--soft); font-weight:500; }
.e-nav a:hover { background:var(--idle-soft); color:var(--ink); }
.e-nav a.on { background:var(--accent-soft); color:var(--accent); }
.e-spacer { flex:1; }
.e-who { color:var(--soft); font-size:13px; white-space:nowrap; }
.e-main { width:100%; max-width:1280px; margin:0 auto; padding:22px 20px 60px; display:flex; flex-direction:column;
  gap:16px; align-items:stretch; }
.e-main > * { width:100%; }
h1.e-title { font-size:22px; line-height:1.25; font-weight:650; letter-spacing:-.015em; margin:0; }
.e-sub { color:var(--soft); margin-top:2px; }
.e-row { display:grid; grid-auto-flow:column; grid-auto-columns:minmax(0,1fr); gap:16px; align-items:stretch; width:100%; }
.e-row.wide-left { grid-template-columns:minmax(0,2fr) minmax(0,1fr); }
.e-row > * { min-width:0; }
.e-sub a { color:var(--accent); } .e-sub a:hover { text-decoration:underline; }
.e-top { display:flex; align-items:center; justify-content:space-between; gap:12px; flex-wrap:wrap; }
.e-card { background:var(--card); border:1px solid var(--line); border-radius:12px; box-shadow:var(--shadow);
  padding:16px; min-width:0; gap:0; }
.e-card.flush { padding:0; overflow:hidden; }
.e-card h2 { font-size:13px; font-weight:600; color:var(--soft); margin:0 0 10px; line-height:1.4; }
.e-card.flush h2 { padding:14px 16px 0; }
.e-tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:12px; }
.e-tile { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:14px 16px; display:block;
  box-shadow:var(--shadow); }
a.e-tile:hover { border-color:var(--accent); }
.e-tile b { display:block; font-size:26px; line-height:1.2; font-weight:650; letter-spacing:-.02em;
  font-variant-numeric:tabular-nums; }
.e-tile b small { font-size:14px; color:var(--faint); font-weight:500; letter-spacing:0; }
.e-tile span { color:var(--soft); font-size:13px; }
.e-tile.bad b { color:var(--bad); } .e-tile.warn b { color:var(--warn); } .e-tile.good b { color:var(--good); }
.e-badge { display:inline-flex; align-items:center; gap:6px; padding:1px 9px; border-radius:99px; font-size:12px;
  font-weight:550; white-space:nowrap; background:var(--idle-soft); color:var(--idle); line-height:20px; }
.e-badge::before { content:""; width:7px; height:7px; border-radius:50%; background:currentColor; }
.e-badge.good { background:var(--good-soft); color:var(--good); } .e-badge.bad { background:var(--bad-soft); color:var(--bad); }
.e-badge.warn { background:var(--warn-soft); color:var(--warn); } .e-badge.accent { background:var(--accent-soft); color:var(--accent); }
.e-badge.live::before { animation:e-pulse 1.6s infinite; }
@keyframes e-pulse { 50% { opacity:.25; } }
@media (prefers-reduced-motion: reduce) { .e-badge.live::before { animation:none; } }
.e-scroll { overflow-x:auto; }
table.e-table { width:100%; border-collapse:collapse; font-variant-numeric:tabular-nums; }
.e-table th { text-align:left; font-weight:550; color:var(--faint); font-size:12px; padding:10px 16px 8px;
  border-bottom:1px solid var(--line); white-space:nowrap; }
.e-table td { padding:10px 16px; border-bottom:1px solid var(--line); vertical-align:middle; }
.e-table tbody tr:last-child td { border-bottom:0; }
.e-table tr.go:hover td { background:var(--idle-soft); }
.e-table tr.go { cursor:pointer; }
.e-table .num { text-align:right; white-space:nowrap; }
.e-table td a.main { font-weight:600; } .e-table td a.main:hover { color:var(--accent); }
.e-soft { color:var(--soft); } .e-faint { color:var(--faint); } .e-small { font-size:12px; }
.e-mono { font-family:ui-monospace,"SF Mono",Menlo,Consolas,monospace; font-size:12.5px; overflow-wrap:anywhere; }
.e-empty { padding:34px 20px; text-align:center; color:var(--soft); }
.e-empty b { display:block; color:var(--ink); font-size:15px; margin-bottom:4px; }
.e-empty code, .e-code { display:inline-block; margin-top:10px; background:var(--idle-soft); border-radius:7px;
  padding:6px 10px; font-family:ui-monospace,Menlo,Consolas,monospace; font-size:12.5px; color:var(--ink);
  overflow-wrap:anywhere; text-align:left; user-select:all; }
.e-bar { display:flex; height:8px; border-radius:99px; overflow:hidden; background:var(--idle-soft); min-width:90px; }
.e-bar i { display:block; height:100%; transition:width .4s; }
.e-bar .good { background:var(--good); } .e-bar .bad { background:var(--bad); } .e-bar .accent { background:var(--accent); }
.e-bar .warn { background:var(--warn); } .e-bar .idle { background:var(--faint); opacity:.5; }
.e-stages { display:flex; flex-direction:column; gap:12px; }
.e-stage { display:grid; grid-template-columns:minmax(210px,max-content) 1fr minmax(150px,max-content); gap:14px; align-items:center; }
.e-stage.later .e-bar { opacity:.6; } .e-stage.later b { font-weight:400; }
.e-list { display:flex; flex-direction:column; }
.e-list > * { padding:9px 16px; border-bottom:1px solid var(--line); display:flex; gap:12px; align-items:center; }
.e-list > *:last-child { border-bottom:0; }
.e-list > *:focus-visible, .e-log:focus-visible { outline-offset:-2px; }
.e-list .grow { flex:1; min-width:0; overflow:hidden; text-overflow:ellipsis; white-space:nowrap; }
.e-kv { display:grid; grid-template-columns:max-content 1fr; gap:5px 16px; }
.e-kv dt { color:var(--soft); } .e-kv dd { margin:0; min-width:0; overflow-wrap:anywhere; }
.e-slot { white-space:nowrap; } .e-slot + .e-slot { margin-top:2px; }
.e-slot small { color:var(--soft); margin-right:2px; }
.e-chip.tag { background:var(--accent-soft); color:var(--accent); }
.e-chip { display:inline-block; background:var(--idle-soft); border-radius:6px; padding:0 7px; font-size:12px;
  margin:1px 4px 1px 0; color:var(--soft); line-height:20px; }
.e-actions { display:flex; gap:8px; flex-wrap:wrap; align-items:center; }
.q-btn { text-transform:none !important; font-weight:550 !important; border-radius:8px !important; letter-spacing:0 !important; }
.q-field--outlined .q-field__control { border-radius:8px !important; background:var(--card); }
.q-card { background:var(--card) !important; color:var(--ink); border-radius:14px !important; }
.q-menu { background:var(--card) !important; color:var(--ink); border:1px solid var(--line); }
.text-quiet { color:var(--soft); }
body.body--dark :is(.text-primary, .q-field__control, .q-item--active) { --q-primary:var(--accent); }
body.body--dark .text-negative { --q-negative:var(--bad); }
.e-filters { display:flex; gap:10px; flex-wrap:wrap; align-items:center; }
.e-pager { display:flex; gap:10px; align-items:center; justify-content:flex-end; padding:8px 12px; color:var(--soft);
  border-top:1px solid var(--line); }
.e-views { display:grid; gap:14px; grid-template-columns:repeat(auto-fit,minmax(min(260px,100%),1fr)); }
.e-views figure { margin:0; min-width:0; } .e-views figcaption { margin-top:6px; line-height:1.4; } .e-views .e-pic { border-radius:8px; overflow:hidden; }
.e-alert { margin:0 0 16px; padding:12px 16px; border-radius:10px; line-height:1.5; overflow-wrap:anywhere; } .e-alert.bad { background:var(--bad-soft); color:var(--bad); }
.e-frame { width:100%; border:0; height:70vh; background:#fff; border-radius:8px; }
.e-sign { min-height:100vh; display:flex; align-items:center; justify-content:center; padding:20px; width:100%; }
.e-burger { display:none !important; }
.e-map { display:grid; grid-template-columns:repeat(auto-fill,minmax(150px,1fr)); gap:10px; }
.e-map a { display:block; border:1px solid var(--line); border-radius:9px; padding:9px 11px; }
.e-map a:hover { border-color:var(--accent); } .e-map a > span { display:flex; justify-content:space-between; gap:6px; margin-bottom:6px; }
.e-map b { overflow:hidden; text-overflow:ellipsis; white-space:nowrap; font-weight:600; }
.e-cells { display:flex; flex-wrap:wrap; gap:4px; } .e-cells h3 { flex-basis:100%; font-size:12px; line-height:1.4; margin:4px 0 0;
  color:var(--soft); font-weight:500; }
.e-cells a { width:18px; height:18px; border-radius:5px; background:var(--faint); opacity:.85; }
.e-cells a:hover { opacity:1; outline:2px solid var(--ink); }
.e-cells .good { background:var(--good); } .e-cells .bad { background:var(--bad); } .e-cells .warn { background:var(--warn); }
.e-legend { display:flex; gap:14px; flex-wrap:wrap; font-size:12px; color:var(--soft); margin-top:12px; }
.e-legend i { display:inline-block; width:9px; height:9px; border-radius:3px; margin-right:6px; background:var(--faint); }
.e-legend .good { background:var(--good); } .e-legend .bad { background:var(--bad); } .e-legend .warn { background:var(--warn); }
.e-stale { opacity:.55; }
.e-shots { display:grid; grid-template-columns:repeat(auto-fill,minmax(250px,1fr)); gap:12px; }
.e-shot .e-pic { aspect-ratio:4/3; } .e-shot .e-pic img { height:100% !important; object-fit:contain; }
.e-shot { border:1px solid var(--line); border-radius:10px; overflow:hidden; background:var(--card); display:block; }
a.e-shot:hover { border-color:var(--accent); } .e-shot .cap { padding:8px 10px; display:flex; gap:8px; align-items:center; }
.e-shot .cap .grow { flex:1; min-width:0; overflow-wrap:anywhere; }
.e-pic { position:relative; background:#0b0e13; line-height:0; } .e-pic img { width:100%; display:block; }
.e-pic svg { position:absolute; inset:0; width:100%; height:100%; }
.e-mini { border:1px solid var(--line); border-radius:7px; padding:2px 9px; font-size:12px; font-weight:550; color:var(--soft);
  background:transparent; cursor:pointer; white-space:nowrap; } .e-mini:hover { border-color:var(--accent); color:var(--ink); }
.e-actions .e-mini { padding:7px 14px; font-size:14px; border-radius:8px; }
.e-mini.main { background:var(--accent-soft); color:var(--accent); border-color:var(--accent); }
.e-mini.bad:hover { border-color:var(--bad); color:var(--bad); }
.e-log { max-height:300px; overflow:auto; }
.e-narrow { display:none; } .e-time { white-space:nowrap; } .e-pad { padding:16px; }
.e-gone { color:#a3adbc; line-height:1.5; display:flex; align-items:center;
  justify-content:center; text-align:center; padding:12px; }
@media (max-width: 760px) {
  .e-nav, .e-who { display:none; } .e-burger { display:inline-flex !important; }
  .e-row, .e-row.wide-left { grid-auto-flow:row; grid-template-columns:minmax(0,1fr); } .e-main { padding:14px 12px 50px; gap:12px; }
  .e-tiles { grid-template-columns:repeat(2,1fr); gap:8px; } .e-tile { padding:10px 12px; } .e-tile b { font-size:21px; }
  .e-table th.wide, .e-table td.wide { display:none; } .e-table td, .e-table th { padding-left:7px; padding-right:7px; }
  .e-table td:first-child, .e-table th:first-child { padding-left:12px; } .e-table .e-badge { padding:1px 7px; gap:5px; }
  .e-table { font-size:13px; } .e-table .e-bar { min-width:48px; } .e-table .e-chip { white-space:nowrap; }
  .e-tile:last-child:nth-child(odd) { grid-column:span 2; } .e-table td a.main { display:inline-block; width:max-content;
  max-width:44vw; overflow-wrap:anywhere; } .e-narrow { display:block; } .e-time { white-space:normal; }
  .e-table td b { overflow-wrap:anywhere; } .e-slot { white-space:normal; overflow-wrap:anywhere; min-width:84px; }
  .e-slot small { display:block; }
  .e-list .e-aside { display:none; } .e-list .grow.wrap { white-space:normal; overflow-wrap:anywhere; }
  .e-list > * { gap:8px; padding-left:12px; padding-right:12px; }
  .e-shots { grid-template-columns:repeat(2,1fr); } .e-shot .cap { flex-wrap:wrap; } .e-shot .cap .grow { flex-basis:100%; }
  .e-mini { padding:5px 11px; }
  .e-stage { grid-template-columns:1fr; gap:4px; } .e-filters > * { flex:1 1 140px; }
}
"""

LOGO = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linejoin="round" '
    'aria-hidden="true"><path d="M12 2.5 20.5 7v10L12 21.5 3.5 17V7z"/><path d="M12 12l8.5-5M12 12v9.5M12 12 3.5 7"/>'
    "</svg>"
)

FAVICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' stroke='%230b6bcb' "
    "stroke-width='2'%3E%3Cpath d='M12 2.5 20.5 7v10L12 21.5 3.5 17V7z'/%3E%3Cpath d='M12 12l8.5-5M12 12v9.5M12 12 3.5 7'/%3E%3C/svg%3E"
)
