"""The style sheet of the page: wide and narrow, light and dark, in print. Its colors are tested for contrast. Pure."""

STYLE = """
:root{--page:#fbfaf8;--card:#fff;--ink:#1c2227;--soft:#59636b;--line:#dfdbd4;--open:#0b6f78;--now:#b3530f;
--s0:#efece6;--s1:#f6dcc6;--s2:#ecb78d;--s3:#d98a54;--s4:#a9521f;--s5:#6f2f0e;--t1:#1c2227;--t2:#1c2227;--t3:#1c2227;
--t4:#fff;--t5:#fff;--warn:#a3290f;--note:#59636b;--fine:#2c6e3f}
@media (prefers-color-scheme:dark){:root{--page:#14181b;--card:#1b2024;--ink:#e7e9ea;--soft:#a2adb4;--line:#323a40;
--open:#4fbcc4;--now:#f0a25e;--s0:#22282c;--s1:#43301f;--s2:#6d4526;--s3:#a4622f;--s4:#dd9150;--s5:#fac795;--t1:#fff;
--t2:#fff;--t3:#fff;--t4:#14181b;--t5:#14181b;--warn:#ff9b82;--note:#a2adb4;--fine:#84cf99}}
*{box-sizing:border-box}
html{background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",
"Liberation Sans",sans-serif;-webkit-text-size-adjust:100%;font-variant-numeric:tabular-nums}
body{margin:0 auto;max-width:76rem;padding:2rem 1.5rem}
h1{font-size:1.7rem;line-height:1.2;margin:0;font-weight:650;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:0 0 .5rem;font-weight:650}
h3{font-size:1rem;margin:2rem 0 .5rem;font-weight:650}
header{border-bottom:1px solid var(--line);margin-bottom:1.5rem}
header p{margin:.3rem 0 1.2rem;color:var(--soft)}
section{margin:0 0 2.8rem}
footer{border-top:1px solid var(--line);color:var(--soft);font-size:.85rem}
p{margin:.3rem 0 .8rem;max-width:46rem}
small{display:block;color:var(--soft);font-size:.8rem;font-weight:400;line-height:1.35}
.hint,.legend{color:var(--soft);font-size:.85rem}
.remark{border-left:3px solid var(--now);padding-left:.7rem;font-size:.9rem}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
code{font-size:.9em}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.4rem,1fr));gap:.8rem;margin:0 0 1rem}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.8rem 1rem}
dt{color:var(--soft);font-size:.85rem}
dd{margin:0;font-size:1.9rem;line-height:1.25;font-weight:650;letter-spacing:-.02em}
dd small{letter-spacing:0}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:.45rem .9rem .45rem 0;border-bottom:1px solid var(--line);
font-weight:400}
th:last-child,td:last-child{padding-right:0}
thead th{color:var(--soft);font-size:.8rem;vertical-align:bottom;white-space:nowrap}
tbody th{font-weight:600;min-width:11.5rem;max-width:15rem;overflow-wrap:anywhere}
td[data-is]{white-space:nowrap}
td[data-is=from],td[data-is=ports],td[data-is=who],td[data-is=door]{white-space:normal;overflow-wrap:anywhere}
.number{text-align:right}
.number+:not(.wide,.barred,.number){padding-left:.6rem}
.group th{padding-top:1.1rem;border-bottom-color:var(--soft);color:var(--ink)}
.lanes th[scope=row]{min-width:15rem}
.lanes .wide{width:50%;padding-left:.6rem}
.lane,.axis{display:block;width:100%;overflow:visible}
.lane{height:1.6rem;background:var(--s0);border-radius:3px}
.axis{height:1rem;fill:var(--soft);font-size:.75rem}
.axis text{text-anchor:middle}
.axis .first{text-anchor:start}
.axis .last{text-anchor:end}
.run{fill:var(--open)}
path.now{fill:var(--now)}
b.now,.warning,.note{font-size:.72rem;font-weight:650;border:1px solid;border-radius:1rem;padding:.05rem .5rem;
white-space:nowrap}
b.now{color:var(--now)}
.warning{color:var(--warn)}
.note{color:var(--note)}
.fine{color:var(--fine)}
.grid{stroke:var(--line);vector-effect:non-scaling-stroke;fill:none}
.bar{display:block;width:100%;height:.8rem;margin-top:.3rem}
.bar rect{height:100%;fill:var(--s4);rx:2px}
.barred{width:16%;min-width:5rem}
.why{min-width:16rem;overflow-wrap:anywhere}
.reasons th[scope=row]{max-width:none}
ul{margin:0;padding:0;list-style:none}
li+li{margin-top:.5rem}
details{margin-top:1rem}
summary{cursor:pointer;color:var(--open);font-size:.9rem;padding:.3rem 0}
.map{table-layout:fixed;border-collapse:separate;border-spacing:2px;font-size:.68rem}
.map th,.map td{padding:0;border:0;text-align:center;height:1.3rem;line-height:1.3rem;overflow:hidden;
white-space:nowrap}
.map th:first-child{width:5.2rem;text-align:left;font-weight:400;color:var(--soft);font-size:.75rem}
.map thead th{font-size:.72rem}
.map td{background:var(--s0);border-radius:2px}
.map .s1{background:var(--s1);color:var(--t1)}.map .s2{background:var(--s2);color:var(--t2)}
.map .s3{background:var(--s3);color:var(--t3)}.map .s4{background:var(--s4);color:var(--t4)}
.map .s5{background:var(--s5);color:var(--t5)}
.legend span{white-space:nowrap;margin-right:.6rem}
.legend i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;margin-right:.3rem;vertical-align:-.08rem}
i.s1{background:var(--s1)}i.s2{background:var(--s2)}i.s3{background:var(--s3)}i.s4{background:var(--s4)}
i.s5{background:var(--s5)}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:1.2rem;margin:.8rem 0 1.4rem}
figure{margin:0;max-width:15rem}
figcaption{font-size:.85rem;font-weight:600;overflow-wrap:anywhere;margin-top:.3rem}
.small{display:block;width:100%;shape-rendering:crispEdges}
.small .s0{fill:var(--s0)}.small .s1{fill:var(--s1)}.small .s2{fill:var(--s2)}.small .s3{fill:var(--s3)}
.small .s4{fill:var(--s4)}.small .s5{fill:var(--s5)}
@media screen and (max-width:68rem){
.cards,.cards tbody,.cards thead{display:block}
.cards thead tr>*{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.cards tr{display:flex;flex-wrap:wrap;gap:.1rem 1rem;padding:.6rem 0;border-bottom:1px solid var(--line)}
.cards thead tr{padding:0;border:0}
.cards th,.cards td,.cards td[data-is]{display:block;border:0;padding:0;min-width:0;max-width:100%;text-align:left;
white-space:normal;overflow-wrap:anywhere}
.cards tbody th,.cards tbody .why,.cards tbody .barred,.cards tbody .wide{flex:0 0 100%;width:100%}
.cards td[data-is]::before{content:attr(data-is) " ";color:var(--soft)}
.cards td small{display:inline;margin-left:.4rem}
.cards tr .number+:not(.wide,.barred,.number),.cards tr .wide{padding-left:0}
.cards .why small{display:block;margin:0}
.cards .bar{height:.5rem;margin:.15rem 0 .2rem}
.lanes thead tr>.wide{position:static;padding:0;width:100%;height:auto;overflow:visible;clip-path:none}
.lanes .group{padding:1rem 0 .2rem;border-bottom-color:var(--soft)}
.lane{height:1.4rem;margin-top:.2rem}
}
@media screen and (max-width:46rem){
body{padding:1.2rem 1rem}
.tiles{grid-template-columns:repeat(2,minmax(0,1fr));gap:.6rem}
.tiles div{padding:.6rem .8rem}
.tiles div:last-child:nth-child(odd){grid-column:1/-1}
.tiles dd{font-size:1.6rem}
.axis .minor{display:none}
.map{border-spacing:1px}
.map td{color:transparent!important;font-size:1px}
.map th:first-child{width:2.9rem;font-size:.7rem}
.weekday{display:none}
.map thead th{overflow:visible}
.maps{grid-template-columns:1fr 1fr}
}
@media print{
:root{color-scheme:light}
html{font-size:11px;background:#fff}
body{max-width:none;padding:0}
section,tr,figure,.tiles div{break-inside:avoid}
section:has(table){break-inside:auto}
h2,h3,.hint{break-after:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
details:not([open]){display:none}
body{line-height:1.35}
.maps{grid-template-columns:repeat(6,1fr)}
tbody th,.lanes th[scope=row],.why{min-width:9rem}
}
"""
