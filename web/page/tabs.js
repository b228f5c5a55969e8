/** Tabs that the mouse, the arrow keys and the address (`#collect`) choose. */

/**
 * Makes the tabs work, and shows the one that the address names, or the first.
 * @param {(name: string) => void} onChange is told the id of the panel that is shown
 * @returns {(name: string) => void} shows the panel of that id
 */
export function makeTabs(onChange) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const names = tabs.map((tab) => tab.getAttribute("aria-controls"));

  function show(name) {
    for (const tab of tabs) {
      const panel = tab.getAttribute("aria-controls");
      tab.ariaSelected = String(panel === name);
      tab.tabIndex = panel === name ? 0 : -1;
      document.getElementById(panel).hidden = panel !== name;
    }
    history.replaceState(null, "", `#${name}`);
    onChange(name);
  }

  tabs.forEach((tab, i) => {
    tab.onclick = () => show(names[i]);
    tab.onkeydown = ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      const next = (i + step + tabs.length) % tabs.length;
      tabs[next].focus();
      show(names[next]);
    };
  });
  const wanted = location.hash.slice(1);
  show(names.includes(wanted) ? wanted : names[0]);
  return show;
}
