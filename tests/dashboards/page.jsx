// One dashboard, drawn with Grafana's own components: what it asks of Prometheus, by range, laid out as its gridPos say.
import React, { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { EventBusSrv, FieldType, ThemeContext, createTheme, dateTime, fieldMatchers, fieldReducers, getDisplayProcessor, toDataFrame } from "@grafana/data";
import { BigValue, GlobalStyles, PanelChrome, PanelContextProvider, PortalContainer, TimeSeries } from "@grafana/ui";
import "uplot/dist/uPlot.min.css";

const theme = createTheme({ colors: { mode: "dark" } });
const { dashboard, prometheus, from, to } = window.view;
const step = Math.max(1, Math.round((to - from) / 300));
const context = { eventsScope: "none", eventBus: new EventBusSrv(), sync: () => 0 };
const columns = 24;
const column = 56;
const row = 34;
const gap = 8;
const timeRange = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: dateTime(from * 1000), to: dateTime(to * 1000) } };

const fill = (expression) => expression.replaceAll("$__rate_interval", "10s").replaceAll("$node", ".+");
const named = (legend, metric) => legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? "");

async function framesOf({ type, targets, fieldConfig }) {
    const frames = [];
    for (const { expr, legendFormat } of targets) {
        const query = new URLSearchParams({ query: fill(expr), start: from, end: to, step });
        const answer = await (await fetch(`${prometheus}/api/v1/query_range?${query}`)).json();
        if (answer.status !== "success") throw new Error(answer.error);
        for (const { metric, values } of answer.data.result) {
            const name = named(legendFormat, metric);
            const { custom, ...defaults } = fieldConfig.defaults;
            const config = { color: { mode: type === "stat" ? "fixed" : "palette-classic", fixedColor: "green" }, ...defaults, displayName: name, custom: { drawStyle: "line", axisPlacement: "auto", axisGridShow: true, spanNulls: false, ...custom } };
            const frame = toDataFrame({
                name,
                fields: [
                    { name: "Time", type: FieldType.time, values: values.map(([at]) => at * 1000), config: {} },
                    { name, type: FieldType.number, values: values.map(([, value]) => Number(value)), config },
                ],
            });
            const [, field] = frame.fields;
            field.state = { seriesIndex: frames.length, displayName: name };
            // The one kind of override that there is: what stays out of the legend.
            for (const { matcher, properties } of fieldConfig.overrides) {
                if (fieldMatchers.get(matcher.id).get(matcher.options)(field, frame, [frame])) config.custom.hideFrom = properties[0].value;
            }
            field.display = getDisplayProcessor({ field, theme, timeZone: "utc" });
            frames.push(frame);
        }
    }
    return frames;
}

function Drawing({ panel, frames, width, height }) {
    if (frames.length === 0) return <div style={{ textAlign: "center", paddingTop: height / 2 - 12 }}>No data</div>;
    if (panel.type === "stat") {
        const [, field] = frames[0].fields;
        const { lastNotNull } = fieldReducers.get("lastNotNull").reduce(field, true, true);
        const value = field.display(lastNotNull);
        const [min, max] = [Math.min(...field.values), Math.max(...field.values)];
        const sparkline = { x: frames[0].fields[0], y: { ...field, state: { ...field.state, range: { min, max, delta: max - min } } } };
        return <BigValue theme={theme} width={width} height={height} value={{ ...value, title: "" }} sparkline={sparkline} colorMode="value" graphMode="area" justifyMode="auto" />;
    }
    return (
        <PanelContextProvider value={context}>
            <TimeSeries frames={frames} timeRange={timeRange} timeZone="utc" width={width} height={height} legend={panel.options.legend} options={panel.options} />
        </PanelContextProvider>
    );
}

function Panel({ panel }) {
    const [frames, setFrames] = useState();
    useEffect(() => {
        if (panel.type === "row") return;
        framesOf(panel).then(setFrames, (error) => (window.problems.push(`${panel.title}: ${error.message}`), setFrames([])));
    }, [panel]);
    const { x, y, w, h } = panel.gridPos;
    const box = { position: "absolute", left: x * column, top: y * row, width: w * column - gap, height: h * row - gap };
    if (panel.type === "row") return <div style={{ ...box, fontSize: 16, fontWeight: 500, paddingTop: 4 }}>⌄ {panel.title}</div>;
    return (
        <div style={box} data-drawn={frames !== undefined}>
            <PanelChrome padding={panel.type === "stat" ? "none" : "md"} title={panel.title} description={panel.description} width={box.width} height={box.height}>
                {(width, height) => frames && <Drawing panel={panel} frames={frames} width={width} height={height} />}
            </PanelChrome>
        </div>
    );
}

window.problems = [];
const bottom = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h)) * row;
createRoot(document.getElementById("root")).render(
    <ThemeContext.Provider value={theme}>
        <GlobalStyles />
        <div style={{ padding: 16, background: theme.colors.background.canvas }}>
            <h3 style={{ margin: "0 0 12px" }}>{dashboard.title}</h3>
            <div style={{ position: "relative", width: columns * column - gap, height: bottom }}>
                {dashboard.panels.map((panel) => <Panel key={panel.id} panel={panel} />)}
            </div>
        </div>
        <PortalContainer />
    </ThemeContext.Provider>,
);
